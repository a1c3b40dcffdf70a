"""Z-Image."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_z_image"
_WRAPPER = f"{_TRANSFORMER}:xFuserZImageTransformer2DWrapper"

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="ZImagePipeline"),),
    shapes={"z-image": ModelShape(30, 128, calls=30, text=512)},
    heads="n_heads",
    wrapper=_WRAPPER,
    runners=("xFuserZImageModel", "xFuserZImageTurboModel"),
    lora={_WRAPPER: "joint_attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(
            _TRANSFORMER,
            "xFuserZImageTransformer2DWrapper.forward",
            "told about padding",
            ("x", "cap_feats", "patch_size", "f_patch_size"),
        ),
        ReliedOn(_TRANSFORMER, "SEQ_MULTI_OF", "tokens of a picture, and of a text, are a multiple of it"),
        ReliedOn(
            _TRANSFORMER,
            "xFuserZImageTransformer2DWrapper._chunk_and_pad_sequence",
            "cuts the masks that say what is real",
            ("x",),
        ),
        ReliedOn(_TRANSFORMER, "ZImageTransformer2DModel", "whose parameters the wrapper hides"),
    ),
)
