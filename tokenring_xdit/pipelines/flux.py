"""What Flux says of itself beside what any model does, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.refusals import refuse_ulysses
from tokenring_xdit.messages import shown
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.model import Model, read_model_file
from tokenring_xdit.pipelines.request import Request, pictures_of
from tokenring_xdit.pipelines.values import is_whole
from tokenring_xdit.sizes import PictureSize, nearest_multiple

__all__ = ["FluxModel", "KontextModel", "decoded", "has_size", "unpacked"]

_TEXT_TOKENS = "max_sequence_length"
"""What Flux's call calls the number of text tokens."""

_LONGEST_TEXT = 512
"""Flux's own limit of text tokens; a tokenizer with a lower one lowers it."""

_AREA = "max_area"
"""What Kontext's call calls the pixels to which it scales whatever size it is given."""

_KONTEXT_SIDE = 1024
"""Width and height of what Kontext makes by default."""


@dataclass(frozen=True)
class FluxModel(Model):
    """A ``FluxPipeline``, with the facts that decide which degrees and sizes fit it.

    Attributes:
        heads: Attention heads.
        head_dim: Width of a head.
        pixels_per_token: Pixels on a side of the square that one image token stands for.
        text_tokens: Text tokens that a prompt is padded to.
        default_size: Size of picture it was trained for.
        channels: Numbers of an image token in its latents.
    """

    heads: int
    head_dim: int
    pixels_per_token: int
    text_tokens: int
    default_size: PictureSize
    channels: int

    @classmethod
    def find(cls, name: str) -> FluxModel:
        """Read the model's configuration files, and nothing else of it.

        Raises:
            ConfigurationError: There is no such model, or a file of it is missing.
            ModelUnreachableError: It is not here, and the hub cannot be asked.
        """
        transformer = read_model_file(name, "transformer/config.json")
        vae = read_model_file(name, "vae/config.json")
        longest = read_model_file(name, "tokenizer_2/tokenizer_config.json").get("model_max_length", _LONGEST_TEXT)
        pixels = 2 ** (len(vae["block_out_channels"]) - 1) * 2  # latents are packed two by two
        side = int(vae.get("sample_size") or 1024)
        return cls(
            name,
            heads=int(transformer["num_attention_heads"]),
            head_dim=int(transformer.get("attention_head_dim") or 128),
            pixels_per_token=pixels,
            text_tokens=min(_LONGEST_TEXT, int(longest)),
            default_size=PictureSize(side, side),
            channels=int(transformer.get("in_channels") or 64),
        )

    def image_tokens(self, size: PictureSize) -> int:
        """Image tokens of a picture."""
        return (size.width // self.pixels_per_token) * (size.height // self.pixels_per_token)

    def check(self, degrees: ParallelDims, size: PictureSize) -> None:
        """Refuse what cannot run, or would be computed wrongly, before anything is started.

        Raises:
            ConfigurationError: The size does not fit the model.
            UnsupportedError: The degrees do not fit the model or the size.
        """
        unit = self.pixels_per_token
        if size.width % unit or size.height % unit:
            fitting = PictureSize(*(nearest_multiple(side, unit) for side in (size.width, size.height)))
            raise ConfigurationError(f"size {size} is not a multiple of {unit} pixels on both sides; {fitting} is")
        refuse_ulysses(degrees.ulysses, self.heads)
        tokens = self.image_tokens(size)
        if degrees.ranks > tokens:
            raise UnsupportedError(f"{degrees.ranks} ranks are more than the {tokens} image tokens of a {size} picture")
        if degrees.tokenring == 1:
            self._check_upstream(degrees, size)

    def complete(self, request: Request) -> Request:
        """Fill in size and text tokens: the pipeline takes every model for one of 1024 pixels."""
        return replace(
            request,
            width=self.default_size.width if request.width is None else request.width,
            height=self.default_size.height if request.height is None else request.height,
            options={_TEXT_TOKENS: self.text_tokens, **request.options},
        )

    def check_request(self, degrees: ParallelDims, request: Request) -> None:
        """As in the base class; see :meth:`check`."""
        assert request.width is not None
        assert request.height is not None
        tokens = request.options[_TEXT_TOKENS]
        if not isinstance(tokens, int) or not 1 <= tokens <= _LONGEST_TEXT:
            raise ConfigurationError(
                f"{_TEXT_TOKENS} is {tokens!r}; it has to be a whole number from 1 to {_LONGEST_TEXT}"
            )
        size = PictureSize(request.width, request.height)
        replace(self, text_tokens=tokens).check(degrees, size)
        latents = request.options.get("latents")
        if latents is not None:
            wanted = (pictures_of(request), self.image_tokens(size), self.channels)
            if tuple(latents.shape) != wanted:
                raise ConfigurationError(
                    f"latents has shape {tuple(latents.shape)}; {wanted} is what a picture of {size} pixels has, packed"
                )

    def _check_upstream(self, degrees: ParallelDims, size: PictureSize) -> None:
        """Where xfuser 0.7 itself raises, or counts text keys once a rank (see ``repairs/flux.py``)."""
        advice = f"tokenring_degree={degrees.ranks} takes any length"
        if self.text_tokens % degrees.ranks:
            raise UnsupportedError(
                f"xfuser 0.7 computes wrongly when {degrees.ranks} ranks of Ulysses and Ring share {self.text_tokens} "
                f"text tokens, which they do not divide: {advice}"
            )
        rows = size.height // self.pixels_per_token
        if rows % degrees.ranks:
            raise UnsupportedError(
                f"xfuser 0.7 cannot share {rows} rows of image tokens among {degrees.ranks} ranks of Ulysses and "
                f"Ring: {advice}"
            )


@dataclass(frozen=True)
class KontextModel(Model):
    """A pipeline of FLUX.1 Kontext, which keeps of a size only its form unless it gets its pixels as well."""

    def complete(self, request: Request) -> Request:
        """Fill in the size, and have exactly that size made."""
        if _AREA in request.options and request.width is None and request.height is None:
            return request
        width = _KONTEXT_SIDE if request.width is None else request.width
        height = _KONTEXT_SIDE if request.height is None else request.height
        if not (is_whole(width) and is_whole(height)):  # which is refused later
            return request
        return replace(request, width=width, height=height, options={_AREA: width * height, **request.options})

    def check_request(self, degrees: ParallelDims, request: Request) -> None:
        """Refuse a size that would not be made."""
        if request.width is None or request.height is None:
            return
        area = request.options.get(_AREA)
        if area != request.width * request.height:
            raise ConfigurationError(
                f"{_AREA} is {shown(area)}, and a picture of {PictureSize(request.width, request.height)} has "
                f"{request.width * request.height} pixels: leave {_AREA} out, or the size"
            )


def has_size(pipe: Any, latents: Tensor, size: PictureSize) -> bool:
    """Whether packed latents ``[B, S, C]`` are a picture of this size."""
    unit = 2 * int(pipe.vae_scale_factor)
    return latents.shape[1] == (size.width // unit) * (size.height // unit)


def unpacked(pipe: Any, latents: Tensor, size: PictureSize) -> Tensor:
    """Packed latents ``[B, S, C]`` of a picture of this size as the VAE takes them, ``[B, C, H, W]``."""
    found: Tensor = pipe._unpack_latents(latents, size.height, size.width, pipe.vae_scale_factor)
    return found


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor, output_type: str) -> Any:
    """Pictures of latents, as diffusers makes them at the end of a call.

    Args:
        pipe: The pipeline, whose VAE is an ``AutoencoderKL``.
        latents: ``[B, C, H, W]``.
        output_type: ``pil``, or ``np`` for ``[B, H, W, 3]`` in ``[0, 1]``, before they are rounded to eight bits.
    """
    vae = pipe.vae
    scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    pixels = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels, output_type=output_type)
