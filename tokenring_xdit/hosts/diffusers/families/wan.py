"""Wan 2.1 and 2.2: the video's tokens are cut, text is whole on every rank."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

_PROCESSORS = ("WanAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="WanTransformer3DModel",
    compared=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"),
    spread={"blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS},
)
