"""Z-Image."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, LoraScale, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER, _WRAPPER = "transformer_z_image", "xFuserZImageTransformer2DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="ZImagePipeline"),),
    shapes={"z-image": ModelShape(30, 128, calls=30, text=512)},
    heads="n_heads",
    wrapper=f"{TRANSFORMERS}{_TRANSFORMER}:{_WRAPPER}",
    runners=("xFuserZImageModel", "xFuserZImageTurboModel"),
    lora=(LoraScale(_TRANSFORMER, _WRAPPER, "joint_attention_kwargs"),),
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(TRANSFORMERS + _TRANSFORMER, f"{_WRAPPER}.forward", "told about padding"),
        ReliedOn(
            TRANSFORMERS + _TRANSFORMER,
            f"{_WRAPPER}._chunk_and_pad_sequence",
            "cuts the masks that say what is real",
            ("x",),
        ),
        ReliedOn(TRANSFORMERS + _TRANSFORMER, "ZImageTransformer2DModel", "whose parameters the wrapper hides"),
    ),
)
