"""What xfuser 0.7.0 gets wrong for HunyuanVideo."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut, key_layout
from tokenring_xdit.hosts.running import may_be_recorded
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    cfg_part,
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]


def take_any_size_and_mask_text(hunyuan_video: Any) -> None:
    """Take any number of tokens, and keep text that the prompt's mask hides out of the keys.

    xfuser 0.7.0: ``xFuserHunyuanVideoTransformer3DWrapper.forward`` cuts the video tokens unevenly where
    they do not divide by the ranks, which the gathering at its end does not survive; and in a batch
    it drops only the text tokens that all prompts hide, attending those that some hide. Frames are
    added at the end until the tokens divide, hidden from attention, and cut off the output again.
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            encoder_attention_mask: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if not wanted():
                rest = (timestep, encoder_hidden_states, encoder_attention_mask, *args)
                return original(self, hidden_states, *rest, **kwargs)
            frames = hidden_states.shape[2]
            padded, mask, layout = _prepare(self.config, hidden_states, encoder_attention_mask)
            with key_layout(layout):
                output = original(self, padded, timestep, encoder_hidden_states, mask, *args, **kwargs)
            if isinstance(output, tuple):
                return (output[0][:, :, :frames], *output[1:])
            output.sample = output.sample[:, :, :frames]
            return output

        return forward

    replace_forward(hunyuan_video.xFuserHunyuanVideoTransformer3DWrapper, make)


def keep_masked_text(hunyuan_video: Any) -> None:
    """Keep text that all prompts hide in calls that may be recorded, hidden from attention.

    xfuser 0.7.0: ``xFuserHunyuanVideoTransformer3DWrapper.forward`` drops it, so that shapes depend on what is in a
    mask, which a CUDA graph cannot have. The wrapper is handed a :class:`_WholeText` in the place of the mask there,
    and the layer that reads the mask itself, diffusers' refiner of text, the mask.
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any, hidden_states: Tensor, timestep: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            mask = attention_mask.mask if isinstance(attention_mask, _WholeText) else attention_mask
            return original(self, hidden_states, timestep, mask, *args, **kwargs)

        return forward

    diffusers = sys.modules[hunyuan_video.HunyuanVideoTransformer3DModel.__module__]
    replace_method(diffusers.HunyuanVideoTokenRefiner, "forward", make)


@dataclass(frozen=True)
class _WholeText:
    """A text mask that drops no token where the wrapper asks it which tokens any prompt has.

    Attributes:
        mask: ``[B, T]``, which tokens are real.
    """

    mask: Tensor

    def to(self, dtype: torch.dtype) -> _WholeText:
        """Itself."""
        return self

    def any(self, dim: int) -> slice:
        """All tokens."""
        return slice(None)


@outside_graphs
def _prepare(config: Any, latents: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor | _WholeText, KeyLayout]:
    """What the wrapper is given.

    Args:
        config: Of the model.
        latents: ``[B, C, T, H, W]``.
        text_mask: ``[B, T]``.

    Returns:
        The latents with frames added until their tokens divide, the mask, and what of it all is real.
    """
    ranks = sequence_parallel_ranks()
    frames, height, width = latents.shape[2:]
    each = (height // config.patch_size) * (width // config.patch_size)
    added = -frames % (ranks // math.gcd(ranks, each) * config.patch_size_t)
    real = all_real(frames // config.patch_size_t * each, text_mask.device)
    video = pad(real, (0, added // config.patch_size_t * each))
    mask, whole = text_mask.to(torch.bool), may_be_recorded()
    text = cfg_part(mask if whole else mask[:, mask.any(dim=0)])
    if text.shape[1] % ranks:  # upstream hands it to attention as joint tensors
        layout = KeyLayout(cut(video, ranks), replicated_real=text, computed=whole)
    else:
        layout = KeyLayout.of_segments(cut(video, ranks), cut(text, ranks), computed=whole)
    return pad(latents, (0, 0, 0, 0, 0, added)), _WholeText(text_mask) if whole else text_mask, layout


def _transformer(hunyuan_video: Any) -> None:
    take_any_size_and_mask_text(hunyuan_video)
    keep_masked_text(hunyuan_video)


HOOKS = {TRANSFORMERS + "transformer_hunyuan_video": _transformer}
