"""What xfuser 0.7.0 lacks for MiniMax-H3: sequences that are cut over other ranks than those of Ulysses."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, active_layout, all_real, cut, key_layout
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
)

__all__ = ["HOOKS"]


def cut_over_all_ranks(h3: Any) -> None:
    """Cut the sequence over all ranks that share it, and leave padding out of the keys where they are.

    xfuser 0.7.0: ``xFuserMiniMaxH3Transformer3DWrapper.forward`` cuts over the Ulysses ranks alone, of which there have
    to be a divisor of 64; and it names the keys that are real by their places in the whole sequence.
    """

    def make_forward(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            audio_hidden_states: Tensor,
            encoder_hidden_states: Tensor,
            timestep: Tensor,
            timestep_indices: Tensor,
            token_tags: Tensor,
            position_ids: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            given = hidden_states, audio_hidden_states, encoder_hidden_states, timestep, timestep_indices, token_tags
            if current_choice() is None:  # under Ulysses alone there is nothing to repair
                return original(self, *given, position_ids, *args, **kwargs)
            before, ranks = h3.MINIMAX_H3_PACKED_SEQUENCE_ALIGNMENT, sequence_parallel_ranks()
            multiple = math.lcm(before, ranks)
            h3.MINIMAX_H3_PACKED_SEQUENCE_ALIGNMENT = multiple
            try:
                with key_layout(_layout(position_ids.shape[0], multiple, ranks)):
                    return original(self, *given, position_ids, *args, **kwargs)
            finally:
                h3.MINIMAX_H3_PACKED_SEQUENCE_ALIGNMENT = before

        return forward

    def make_size(original: Any) -> Any:
        def size() -> int:
            return int(original()) if active_layout() is None else sequence_parallel_ranks()

        return size

    def make_rank(original: Any) -> Any:
        def rank() -> int:
            from xfuser.core.distributed import get_sequence_parallel_rank

            return int(original() if active_layout() is None else get_sequence_parallel_rank())

        return rank

    replace_forward(h3.xFuserMiniMaxH3Transformer3DWrapper, make_forward)
    replace_method(h3, "get_ulysses_parallel_world_size", make_size)
    replace_method(h3, "get_ulysses_parallel_rank", make_rank)


@outside_graphs
@lru_cache(maxsize=32)
def _layout(tokens: int, multiple: int, ranks: int) -> KeyLayout:
    """Tokens that are padded at their end, to a multiple that the ranks divide."""
    return KeyLayout(cut(pad(all_real(tokens), (0, -tokens % multiple)), ranks))


HOOKS = {TRANSFORMERS + "transformer_minimax_h3": cut_over_all_ranks}
