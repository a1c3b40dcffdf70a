"""What xfuser 0.7.0 gets wrong for Ideogram 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout
from tokenring_xdit.hosts.xfuser.family import PIPELINES, TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    change_when_made,
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]


def leave_padding_and_short_prompts_out(ideogram4: Any) -> None:
    """Keep padding out of the keys, behind the picture and in front of prompts that are shorter than others.

    xfuser 0.7.0: the wrapper's ``forward`` pads the tokens to a multiple of the ranks and attends the padding as keys;
    it takes all prompts for as long as one another; and it keeps what it found of them for all calls that follow.
    """

    def make_forward(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            position_ids: Tensor,
            segment_ids: Tensor,
            indicator: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            given = hidden_states, timestep, encoder_hidden_states, position_ids, segment_ids, indicator
            if not wanted():
                return original(self, *given, *args, **kwargs)
            with key_layout(_layout(self, indicator)):
                return original(self, *given, *args, **kwargs)

        return forward

    change_when_made(
        ideogram4,
        "_make_xfuser_ideogram4_transformer_wrapper",
        "_wrapper_cls",
        lambda wrapper: replace_forward(wrapper, make_forward),
        author=leave_padding_and_short_prompts_out,
    )


def take_prompts_of_different_length(pipeline: Any) -> None:
    """Encode prompts as diffusers does.

    xfuser 0.7.0: ``xFuserIdeogram4Pipeline.encode_prompt`` refuses prompts of different length, and tells the
    transformers how long they are, which they see themselves (above).
    """

    def change(kind: Any) -> None:
        def make(original: Any) -> Any:
            def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
                if not wanted():
                    return original(self, *args, **kwargs)
                return super(kind, self).encode_prompt(*args, **kwargs)

            return encode_prompt

        replace_method(kind, "encode_prompt", make)

    change_when_made(
        pipeline,
        "_make_xfuser_ideogram4_pipeline_class",
        "_pipeline_cls",
        change,
        author=take_prompts_of_different_length,
    )


@outside_graphs
def _layout(model: Any, indicator: Tensor) -> KeyLayout:
    """Text, aligned at its end, in front of the picture; what is padding of all prompts is left out before.

    Args:
        model: Told how much is padding, text and picture.
        indicator: What each token is, ``[B, S]``.
    """
    from diffusers.models.transformers.transformer_ideogram4 import LLM_TOKEN_INDICATOR, OUTPUT_IMAGE_INDICATOR

    text = (indicator == LLM_TOKEN_INDICATOR).cpu()
    picture = int((indicator[0] == OUTPUT_IMAGE_INDICATOR).sum())
    longest = int(text.sum(dim=1).max())
    skipped = indicator.shape[1] - picture - longest
    model._init_sp_state()
    model._set_sequence_layout(skipped, longest, picture)
    real = torch.cat([text[:, skipped : skipped + longest], text.new_ones(text.shape[0], picture)], dim=1)
    return KeyLayout(cut(real, sequence_parallel_ranks()))


HOOKS = {
    TRANSFORMERS + "transformer_ideogram4": leave_padding_and_short_prompts_out,
    PIPELINES + "pipeline_ideogram4": take_prompts_of_different_length,
}
