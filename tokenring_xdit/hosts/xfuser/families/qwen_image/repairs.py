"""What xfuser 0.7.0 gets wrong for Qwen-Image."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut, key_layout, padding, sequence_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

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


def modulate_own_tokens(qwen: Any) -> None:
    """Cut what says which tokens are noise, as the tokens are cut.

    xfuser 0.7.0: with ``zero_cond_t``, as Qwen-Image-Edit 2511 has it, ``xFuserQwenImageTransformerWrapper.forward``
    hands the blocks that of the whole sequence beside a rank's part of the tokens, whose sizes do not fit.
    """

    def make(original: Any) -> Any:
        def modulate(self: Any, x: Tensor, mod_params: Tensor, index: Tensor | None = None) -> Any:
            if index is not None and index.shape[1] != x.shape[1] and wanted():
                index = _own(index, x.shape[1])
            return original(self, x, mod_params, index)

        return modulate

    diffusers = sys.modules[qwen.QwenImageTransformer2DModel.__module__]
    replace_method(diffusers.QwenImageTransformerBlock, "_modulate", make)


def _own(index: Tensor, tokens: int) -> Tensor:
    """This rank's part of ``[B, S]``, padded at its end as the tokens are."""
    from xfuser.core.distributed import get_sequence_parallel_rank

    padded = pad(index, (0, padding(index.shape[1], sequence_parallel_ranks())))
    return padded.narrow(1, int(get_sequence_parallel_rank()) * tokens, tokens)


@outside_graphs
def _layout(image: Tensor, text: Tensor, mask: Tensor | None) -> KeyLayout:
    """Text in front of the image, each padded at its end."""
    ranks = sequence_parallel_ranks()
    if mask is None:
        return sequence_layout(ranks, text.shape[1], image.shape[1])
    whole = all_real(image.shape[1], mask.device)
    return KeyLayout.of_segments(cut(mask.to(torch.bool), ranks), cut(whole, ranks), computed=True)


def _transformer(qwen: Any) -> None:
    leave_padding_and_masked_text_out(qwen)
    modulate_own_tokens(qwen)


HOOKS = {TRANSFORMERS + "transformer_qwen": _transformer}
