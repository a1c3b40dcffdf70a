"""SkyReels V2: as Wan; where each frame has a time of its own, each token has it, and the output is scaled by it."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("SkyReelsV2AttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="SkyReelsV2Pipeline", multiple=16),
        Pipeline(name="SkyReelsV2DiffusionForcingPipeline", multiple=16),
    ),
    transformer="SkyReelsV2Transformer3DModel",
    compared=(
        "SkyReelsV2ImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
    ),
    spread={"blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS},
    plan={
        "rope": {0: Split(1, 4), 1: Split(1, 4)},
        "blocks.*": {"hidden_states": Split(1, once=True), "temb": Split(2, 4)},
        "norm_out": Gather(1),
    },
    config={"num_frame_per_block": (1,)},
)
