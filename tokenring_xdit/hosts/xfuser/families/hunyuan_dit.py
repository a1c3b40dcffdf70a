"""HunyuanDiT."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.xfuser.family import OwnPipeline, Shares, TokenCut, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_PROCESSORS = ("HunyuanAttnProcessor2_0", "FusedHunyuanAttnProcessor2_0")

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="HunyuanDiTPipeline"),),
    shapes={"hunyuan-dit": ModelShape(16, 88, calls=40, text=0)},
    cut=TokenCut(
        transformer="HunyuanDiT2DModel",
        blocks=("blocks",),
        whole_again="norm_out",
        attention={"attn1": _PROCESSORS},
        other_attention={"attn2": _PROCESSORS},
        rotary="image_rotary_emb",
    ),
    own=(
        OwnPipeline(
            runs="HunyuanDiTPipeline",
            module="pipeline_hunyuandit",
            name="xFuserHunyuanDiTPipeline",
            shares=Shares.ROWS,
            guidance_of_one=False,
            rescaled_guidance=False,
            stages=True,
            patches=False,
            switches=("_guidance_scale", "_guidance_rescale", "_interrupt"),
        ),
    ),
)
