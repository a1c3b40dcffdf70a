"""How much attention a picture or video is, for the models that xfuser shards.

Heads and widths are the defaults of the transformer classes of diffusers 0.42, or those of the checkpoint where a class
serves several; text lengths are those that the pipelines pad to.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import shown

__all__ = ["MODELS", "ModelShape", "model_shape"]


@dataclass(frozen=True)
class ModelShape:
    """The attention of a diffusion transformer.

    Attributes:
        heads: Query heads.
        head_dim: Width of a head.
        calls: Attention calls over the whole sequence in one denoising step.
        text: Text tokens in the same sequence; 0 where text has cross-attention of its own.
        patch: Pixels of a picture's side that a token stands for.
        frames: Frames of a video that a token stands for; 0 for models of pictures.
        kv_heads: Heads of keys and values, where they are fewer.
        ring: Whether xfuser 0.7.0 takes it over its own Ring.
    """

    heads: int
    head_dim: int
    calls: int
    text: int
    patch: int = 16
    frames: int = 0
    kv_heads: int | None = None
    ring: bool = True

    def tokens(self, width: int, height: int, frames: int = 1) -> int:
        """Tokens of a picture, or of a video of ``frames`` frames.

        Raises:
            ConfigurationError: The model has no such sizes.
        """
        for name, side in (("width", width), ("height", height)):
            if side < self.patch or side % self.patch:
                raise ConfigurationError(f"size {width}x{height}: the {name} has to be a multiple of {self.patch}")
        if frames < 1 or (frames > 1 and not self.frames):
            raise ConfigurationError(f"frames {frames}: this model makes pictures, for which frames is 1")
        latent = (frames - 1) // self.frames + 1 if self.frames else 1
        return (width // self.patch) * (height // self.patch) * latent + self.text


MODELS: dict[str, ModelShape] = {
    "flux": ModelShape(24, 128, calls=57, text=512),
    "flux2": ModelShape(48, 128, calls=56, text=512),
    "sd3": ModelShape(24, 64, calls=24, text=333),
    "sd3.5-medium": ModelShape(24, 64, calls=24, text=333),
    "sd3.5-large": ModelShape(38, 64, calls=38, text=333),
    "pixart-sigma": ModelShape(16, 72, calls=28, text=0),
    "hunyuan-dit": ModelShape(16, 88, calls=40, text=0),
    "qwen-image": ModelShape(24, 128, calls=60, text=512),
    "z-image": ModelShape(30, 128, calls=30, text=512),
    "lumina2": ModelShape(24, 96, calls=26, text=256, kv_heads=8, ring=False),
    "cogvideox-2b": ModelShape(30, 64, calls=30, text=226, frames=4),
    "cogvideox-5b": ModelShape(48, 64, calls=42, text=226, frames=4),
    "wan-1.3b": ModelShape(12, 128, calls=30, text=0, frames=4),
    "wan-14b": ModelShape(40, 128, calls=40, text=0, frames=4),
    "hunyuan-video": ModelShape(24, 128, calls=60, text=256, frames=4),
}
"""By the names that ``tokenring-xdit plan --model`` takes."""


def model_shape(name: str) -> ModelShape:
    """The attention of a model.

    Raises:
        ConfigurationError: There is no such model.
    """
    if name not in MODELS:
        raise ConfigurationError(f"there is no model {shown(name)} to plan for. {nearest(name, MODELS)}")
    return MODELS[name]
