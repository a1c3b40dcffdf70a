"""Wan 2.1 and 2.2: the video's tokens are cut, text is whole on every rank."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

_PROCESSORS = ("WanAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="WanVideoToVideoPipeline", multiple=16, needs=("video",)),),
    transformer="WanTransformer3DModel",
    compared=("WanPipeline", "WanImageToVideoPipeline"),
    spread={"blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS},
)
