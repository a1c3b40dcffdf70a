"""What xfuser 0.7.0 gets wrong for Z-Image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout, set_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    show_parameters,
    wanted,
)

__all__ = ["HOOKS"]


def build_the_configured_model(z_image: Any) -> None:
    """Let ``from_config`` and ``from_pretrained`` see the model's parameters.

    xfuser 0.7.0: ``xFuserZImageTransformer2DWrapper.__init__`` takes ``**kwargs``, from which diffusers
    reads that the model has no parameters: the config is dropped and the default of 6 billion built.
    """
    wrapper, parent = z_image.xFuserZImageTransformer2DWrapper, z_image.ZImageTransformer2DModel
    show_parameters(wrapper, parent, author=build_the_configured_model)


def leave_padding_and_masked_tokens_out(z_image: Any) -> None:
    """Keep padding and masked tokens out of the keys, in the refiners and in the joint blocks.

    xfuser 0.7.0: the wrapper cuts an attention mask along with each of its three sequences, and its
    attention processor ignores it (found by reading; a batch of prompts of different length shows it).
    """

    def make_forward(original: Any) -> Any:
        def forward(self: Any, *args: Any, joint_attention_kwargs: None = None, **kwargs: Any) -> Any:
            with key_layout(None):  # set anew before each kind of block
                return original(self, *args, **kwargs)

        return forward

    def make_cut(original: Any) -> Any:
        def chunk_and_pad_sequence(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            # The mask of a sequence is cut right before the blocks that work on that sequence.
            if wanted() and x.dtype == torch.bool:
                set_layout(KeyLayout.of_segments(cut(x, sequence_parallel_ranks())))
            return original(self, x, *args, **kwargs)

        # torch.compile breaks its graph here, instead of setting the last of three layouts for all blocks.
        return torch.compiler.disable(chunk_and_pad_sequence)  # type: ignore[no-untyped-call]

    wrapper = z_image.xFuserZImageTransformer2DWrapper
    replace_forward(wrapper, make_forward)
    replace_method(wrapper, "_chunk_and_pad_sequence", make_cut)


def _transformer(z_image: Any) -> None:
    build_the_configured_model(z_image)
    leave_padding_and_masked_tokens_out(z_image)


HOOKS = {TRANSFORMERS + "transformer_z_image": _transformer}
