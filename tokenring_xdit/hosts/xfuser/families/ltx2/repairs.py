"""What xfuser 0.7.0 gets wrong for LTX-2, 2.3 and 2.5."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from tokenring_xdit.hosts.layout import active_layout, key_layout, sequence_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]


def leave_padding_out(ltx2: Any) -> None:
    """Keep padding out of the keys, of the video's own and of those that sound attends.

    xfuser 0.7.0: ``xFuserLTX2VideoTransformer3DWrapper.forward`` pads the tokens to a multiple of the ranks and attends
    the padding as keys, also where sound attends to keys gathered from all ranks, which no ring sees (4.4e-3 off).
    It keeps a mask of text under the address of the tensor that it was made of, which another prompt's may have later.
    """

    def make_forward(original: Any) -> Any:
        def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not wanted():
                return original(self, hidden_states, *args, **kwargs)
            self._enc_mask_cache.clear()
            self._audio_enc_mask_cache.clear()
            with key_layout(sequence_layout(sequence_parallel_ranks(), hidden_states.shape[1])):
                return original(self, hidden_states, *args, **kwargs)

        return forward

    def make_call(original: Any) -> Any:
        def call(
            self: Any,
            attn: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            attention_mask: Any = None,
            query_rotary_emb: Any = None,
            key_rotary_emb: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            layout = active_layout()
            if self.gather_kv and layout is not None:
                tokens, place = layout.count(), 2 if attn.rope_type == "split" else 1
                encoder_hidden_states = _whole(encoder_hidden_states, 1, tokens)
                key_rotary_emb = tuple(_whole(table, place, tokens) for table in key_rotary_emb)
                self = copy.copy(self)
                self.gather_kv = False
            return original(
                self,
                attn,
                hidden_states,
                encoder_hidden_states,
                attention_mask,
                query_rotary_emb,
                key_rotary_emb,
                *args,
                **kwargs,
            )

        return call

    replace_forward(ltx2.xFuserLTX2VideoTransformer3DWrapper, make_forward)
    for processor in (ltx2.xFuserLTX2AudioVideoAttnProcessor, ltx2.xFuserLTX2PerturbedAttnProcessor):
        replace_method(processor, "__call__", make_call)


def _whole(own: Any, dim: int, tokens: int) -> Tensor:
    """What all ranks have of a sequence, without the padding at its end."""
    from xfuser.core.distributed import get_sp_group

    gathered: Tensor = get_sp_group().all_gather(own.contiguous(), dim=dim)
    return gathered.narrow(dim, 0, tokens)


HOOKS = {TRANSFORMERS + "transformer_ltx2": leave_padding_out}
