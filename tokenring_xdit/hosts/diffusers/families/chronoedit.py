"""ChronoEdit: Wan's image to video, whose last frame is the edited picture."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily

__all__ = ["FAMILY"]

_PROCESSORS = ("WanAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="ChronoEditPipeline", multiple=16),),
    transformer="ChronoEditTransformer3DModel",
    compared=(),
    spread={"blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS},
)
