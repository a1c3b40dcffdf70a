"""What xfuser 0.7.0 gets wrong for Qwen-Image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut, key_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def leave_padding_and_masked_text_out(qwen: Any) -> None:
    """Keep padding, and text that the prompt's mask hides, out of the keys.

    xfuser 0.7.0: ``xFuserQwenImageTransformerWrapper.forward`` pads text and image tokens to multiples
    of the ranks and attends the padding as keys (1.8e-3 off); its attention processor ignores the
    mask that hides the end of the shorter prompts of a batch (1.8e-2 off).
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor,
            encoder_hidden_states_mask: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if not wanted():
                return original(self, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, *args, **kwargs)
            with key_layout(_layout(hidden_states, encoder_hidden_states, encoder_hidden_states_mask)):
                return original(self, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, *args, **kwargs)

        return forward

    replace_forward(qwen.xFuserQwenImageTransformerWrapper, make)


@outside_graphs
def _layout(image: Tensor, text: Tensor, mask: Tensor | None) -> KeyLayout:
    """Text in front of the image, each padded at its end."""
    ranks = sequence_parallel_ranks()
    real = all_real(text.shape[1]) if mask is None else mask.to(torch.bool)
    return KeyLayout.of_segments(cut(real, ranks), cut(all_real(image.shape[1]), ranks))


HOOKS = {TRANSFORMERS + "transformer_qwen": leave_padding_and_masked_text_out}
