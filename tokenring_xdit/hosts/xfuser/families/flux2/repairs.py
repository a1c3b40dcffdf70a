"""What xfuser 0.7.0 gets wrong for FLUX.2 without PipeFusion."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import key_layout, padding, sequence_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def take_any_number_of_tokens(flux2: Any) -> None:
    """Pad the text so that it can be cut evenly, and keep padding out of the keys.

    xfuser 0.7.0: ``xFuserFlux2Transformer2DWrapper.forward`` cuts the text without a check, so ranks get
    unequal shards and abort; and it attends the padding of the image as keys.
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor,
            *args: Any,
            txt_ids: Tensor,
            **kwargs: Any,
        ) -> Any:
            if not wanted():
                return original(self, hidden_states, encoder_hidden_states, *args, txt_ids=txt_ids, **kwargs)
            ranks, text = sequence_parallel_ranks(), encoder_hidden_states.shape[1]
            encoder_hidden_states, txt_ids = _padded(encoder_hidden_states, ranks), _padded(txt_ids, ranks)
            with key_layout(sequence_layout(ranks, text, hidden_states.shape[1])):
                return original(self, hidden_states, encoder_hidden_states, *args, txt_ids=txt_ids, **kwargs)

        return forward

    replace_forward(flux2.xFuserFlux2Transformer2DWrapper, make)


@outside_graphs
def _padded(text: Tensor, ranks: int) -> Tensor:
    """``[B, T, D]`` with zeros at the end of the tokens until they divide."""
    return pad(text, (0, 0, 0, padding(text.shape[1], ranks)))


HOOKS = {TRANSFORMERS + "transformer_flux2": take_any_number_of_tokens}
