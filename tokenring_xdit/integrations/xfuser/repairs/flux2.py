"""What xfuser 0.7.0 gets wrong for FLUX.2 without PipeFusion."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.integrations.xfuser.layout import key_layout, padding
from tokenring_xdit.integrations.xfuser.repairs.common import (
    replace_forward,
    sequence_layout,
    sequence_parallel_ranks,
    wanted,
)

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
            ranks = sequence_parallel_ranks()
            text = encoder_hidden_states.shape[1]
            missing = (0, 0, 0, padding(text, ranks))
            with key_layout(sequence_layout(ranks, text, hidden_states.shape[1])):
                return original(
                    self,
                    hidden_states,
                    pad(encoder_hidden_states, missing),
                    *args,
                    txt_ids=pad(txt_ids, missing),
                    **kwargs,
                )

        return forward

    replace_forward(flux2.xFuserFlux2Transformer2DWrapper, make)


HOOKS = {"xfuser.model_executor.models.transformers.transformer_flux2": take_any_number_of_tokens}
