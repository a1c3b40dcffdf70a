"""What xfuser 0.7.0 gets wrong for HunyuanVideo."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut, key_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import cfg_part, replace_forward, sequence_parallel_ranks, wanted

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
            rest = (timestep, encoder_hidden_states, encoder_attention_mask, *args)
            if not wanted():
                return original(self, hidden_states, *rest, **kwargs)
            frames = hidden_states.shape[2]
            padded, layout = _prepare(self.config, hidden_states, encoder_attention_mask)
            with key_layout(layout):
                output = original(self, padded, *rest, **kwargs)
            if isinstance(output, tuple):
                return (output[0][:, :, :frames], *output[1:])
            output.sample = output.sample[:, :, :frames]
            return output

        return forward

    replace_forward(hunyuan_video.xFuserHunyuanVideoTransformer3DWrapper, make)


@outside_graphs
def _prepare(config: Any, latents: Tensor, text_mask: Tensor) -> tuple[Tensor, KeyLayout]:
    """Latents ``[B, C, T, H, W]`` with frames added until their tokens divide, and what of it all is real."""
    ranks = sequence_parallel_ranks()
    frames, height, width = latents.shape[2:]
    each = (height // config.patch_size) * (width // config.patch_size)
    added = -frames % (ranks // math.gcd(ranks, each) * config.patch_size_t)
    video = pad(all_real(frames // config.patch_size_t * each), (0, added // config.patch_size_t * each))
    mask = text_mask.to(torch.bool)
    text = cfg_part(mask[:, mask.any(dim=0)])
    if text.shape[1] % ranks:  # upstream hands it to attention as joint tensors
        layout = KeyLayout(cut(video, ranks), replicated_real=text)
    else:
        layout = KeyLayout.of_segments(cut(video, ranks), cut(text, ranks))
    return pad(latents, (0, 0, 0, 0, 0, added)), layout


HOOKS = {TRANSFORMERS + "transformer_hunyuan_video": take_any_size_and_mask_text}
