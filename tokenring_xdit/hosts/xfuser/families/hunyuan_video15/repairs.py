"""What xfuser 0.7.0 gets wrong for HunyuanVideo 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, sequence_parallel_ranks, under_layout

__all__ = ["HOOKS"]


def leave_padding_and_masked_text_out(hunyuan_video15: Any) -> None:
    """Keep padding, and text that a prompt's masks hide, out of the keys.

    xfuser 0.7.0: ``xFuserHunyuanVideo15Transformer3DWrapper.forward`` pads the video tokens to a multiple of the ranks
    and attends the padding as keys; and in a batch it drops only the text that all prompts hide, attending that which
    some hide.
    """

    def make(original: Any) -> Any:
        return under_layout(original, _layout)

    replace_forward(hunyuan_video15.xFuserHunyuanVideo15Transformer3DWrapper, make)


@outside_graphs
def _layout(model: Any, arguments: Mapping[str, Any]) -> KeyLayout:
    """Video in front of what is real of the picture, the glyphs and the text, which upstream puts at the front."""
    ranks, config = sequence_parallel_ranks(), model.config
    frames, height, width = arguments["hidden_states"].shape[2:]
    tokens = (frames // config.patch_size_t) * (height // config.patch_size) * (width // config.patch_size)
    video = cut(all_real(tokens), ranks)
    picture: Tensor = arguments["image_embeds"]
    real = arguments["encoder_attention_mask"].bool().sum(dim=1) + arguments["encoder_attention_mask_2"].bool().sum(1)
    if bool((picture != 0).any()):
        real = real + picture.shape[1]
    text = torch.arange(int(real.max()), device=real.device) < real[:, None]
    if text.shape[1] % ranks:  # upstream hands it to attention as joint tensors
        return KeyLayout(video, replicated_real=text)
    return KeyLayout.of_segments(video, cut(text, ranks))


HOOKS = {TRANSFORMERS + "transformer_hunyuan_video15": leave_padding_and_masked_text_out}
