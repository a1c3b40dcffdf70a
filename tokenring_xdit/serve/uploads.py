"""Pictures that requests bring: read within limits, and nothing but pictures; no URL is fetched, and no path opened."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.pictures import read_picture
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["FORMATS", "MOST_PICTURES", "Uploads"]

FORMATS = ("PNG", "JPEG", "WEBP")
"""Of pictures that are sent, as Pillow names them."""

MOST_PICTURES = 16
"""Pictures of a request."""

_PICTURES = ("image", "image[]")

_MASK = "mask"


@dataclass(frozen=True)
class Uploads:
    """What a request to edit brings.

    Attributes:
        pictures: To start from, at least one, in RGB.
        mask: White where the picture is regenerated, of the first one's size.
    """

    pictures: tuple[Image.Image, ...]
    mask: Image.Image | None

    @classmethod
    def read(cls, files: Mapping[str, Sequence[bytes]], most: int) -> Uploads:
        """Read what was sent.

        Args:
            files: By their fields.
            most: Pixels that all of them have together.

        Raises:
            RefusedError: It is refused; the message names the field.
        """
        sent = [(name, content) for name in _PICTURES for content in files.get(name, ())]
        if not sent:
            raise RefusedError("image: is missing; it has to be a file", "image", code="missing_field")
        if len(sent) > MOST_PICTURES:
            raise RefusedError(f"image: {len(sent)} pictures were sent, and {MOST_PICTURES} are the most", "image")
        pictures: list[Image.Image] = []
        for _, content in sent:
            pictures.append(_read("image", content, most))
            most -= pictures[-1].width * pictures[-1].height
        masks = files.get(_MASK, ())
        if len(masks) > 1:
            raise RefusedError("mask: is said twice", _MASK)
        mask = _alpha(_read(_MASK, masks[0], most), pictures[0].size) if masks else None
        if mask is None and any(_is_transparent(picture) for picture in pictures):
            raise RefusedError(
                "image: has transparent parts, which RGB has no room for: fill them, and send what is to be "
                "regenerated as mask",
                "image",
            )
        return cls(tuple(picture.convert("RGB") for picture in pictures), mask)


def _read(field: str, content: bytes, most: int) -> Image.Image:
    if not content:
        raise RefusedError(f"{field}: is an empty file", field)
    try:
        return read_picture(io.BytesIO(content), field, most=most, formats=FORMATS)
    except ConfigurationError as error:
        raise RefusedError(str(error), field, code="invalid_picture") from error


def _alpha(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """What is transparent in a mask, in white: OpenAI has that regenerated, and diffusers what is white."""
    if mask.size != size:
        wanted = f"{size[0]}x{size[1]}"
        raise RefusedError(f"mask: has {mask.width}x{mask.height} pixels, and the picture has {wanted}", _MASK)
    if not _has_alpha(mask):
        raise RefusedError("mask: has no alpha, and what is transparent is regenerated: send a PNG that has", _MASK)
    inverted: Image.Image = _alpha_of(mask).point(lambda value: 255 - value)
    return inverted


def _has_alpha(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


def _is_transparent(picture: Image.Image) -> bool:
    return _has_alpha(picture) and _alpha_of(picture).getextrema()[0] < 255


def _alpha_of(picture: Image.Image) -> Any:
    return picture.convert("RGBA").getchannel("A")
