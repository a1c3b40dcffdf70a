"""How much attention a picture or video is, for a model: what records of families say of it.

Heads and widths are the defaults of the transformer classes of diffusers 0.42, or those of the checkpoint where a class
serves several; text lengths are those that the pipelines pad to.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.errors import ConfigurationError

__all__ = ["ModelShape"]


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
        if frames < 1:
            raise ConfigurationError(f"frames {frames}: has to be 1 or more")
        if frames > 1 and not self.frames:
            raise ConfigurationError(f"frames {frames}: this model makes pictures, for which frames is 1")
        latent = (frames - 1) // self.frames + 1 if self.frames else 1
        return (width // self.patch) * (height // self.patch) * latent + self.text
