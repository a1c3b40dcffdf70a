"""Pictures that a request brings: read from files and uploads within limits, and sent to ranks as bytes of PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line, shown

__all__ = [
    "GREY",
    "MASKS",
    "MODES",
    "PICTURES",
    "VIDEOS",
    "PackedPicture",
    "packed_options",
    "read_picture",
    "refuse_mode",
    "unpacked_options",
]

MASKS = frozenset({"mask_image", "control_mask"})
"""Arguments of pipelines that are pictures of one channel."""

PICTURES = MASKS | {"image", "control_image", "image_reference", "last_image", "reference_images"}
"""Arguments of pipelines that are pictures."""

VIDEOS = frozenset({"mask", "video"})
"""Arguments of pipelines that are videos: lists of frames. The mask marks the part of a video to regenerate."""

GREY = MASKS | {"mask"}
"""Of both, those of one channel."""

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Of Pillow, that RGB has room for; 16 bits of grey are clipped at 255, so that they turn white."""


@dataclass(frozen=True)
class PackedPicture:
    """A picture on its way to a rank.

    Attributes:
        png: The bytes of a PNG file, which loses nothing.
    """

    png: bytes

    @classmethod
    def of(cls, picture: Image.Image, mode: str) -> PackedPicture:
        """Pack a picture.

        Args:
            picture: Picture of any mode that has this one's colours.
            mode: ``RGB``, or ``L``.
        """
        file = io.BytesIO()
        picture.convert(mode).save(file, "PNG", compress_level=1)
        return cls(file.getvalue())

    def opened(self) -> Image.Image:
        """The picture."""
        picture: Image.Image = Image.open(io.BytesIO(self.png), formats=("PNG",))
        picture.load()
        return picture


def packed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a request, in which pictures are packed: in RGB, as pipelines take them, and masks in grey."""
    return {name: _packed(value, "L" if name in GREY else "RGB") for name, value in options.items()}


def unpacked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`packed_options` was given."""
    return {name: _unpacked(value) for name, value in options.items()}


def read_picture(
    source: Path | IO[bytes], name: str, *, most: int | None = None, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Read a picture the way it is to be seen: turned as its camera says.

    Args:
        source: A file.
        name: What messages call it.
        most: Pixels, width times height, that it may have; nothing is decoded of a larger one. ``None`` for Pillow's
            own limit.
        formats: That it may have, as Pillow names them; any that Pillow knows by default.

    Raises:
        ConfigurationError: It is no picture, a damaged one, of another format or mode, or too large.
    """
    kinds = "" if formats is None else f" in {', '.join(formats[:-1])} or {formats[-1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=formats) as picture:
                pixels = picture.width * picture.height
                if most is not None and pixels > most:
                    raise ConfigurationError(f"{name}: the picture has {pixels} pixels, and {most} are the most")
                # of a photograph with others inside, such as a small copy of itself, the first one is meant
                if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                    raise ConfigurationError(f"{name}: has {picture.n_frames} frames, and one picture is wanted")
                refuse_mode(name, picture)
                picture.load()
                turned: Image.Image | None = ImageOps.exif_transpose(picture)
                return picture if turned is None else turned
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = Image.MAX_IMAGE_PIXELS
        raise ConfigurationError(f"{name}: the picture has more than {limit} pixels, which are the most") from None
    except UnidentifiedImageError:
        raise ConfigurationError(f"{name}: is no picture{kinds}") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(str(error)) or "it is damaged"
        raise ConfigurationError(f"{name}: the picture {_of(source)}cannot be read: {reason}") from error


def refuse_mode(name: str, picture: Image.Image) -> None:
    """Refuse a picture that changes as it is converted to RGB.

    Args:
        name: What messages call it.
        picture: Picture of any mode.

    Raises:
        ConfigurationError: It does.
    """
    if picture.mode not in MODES:
        raise ConfigurationError(
            f"{name}: is a picture of the mode {picture.mode}, which RGB has no room for; convert it to RGB first"
        )


def _of(source: Path | IO[bytes]) -> str:
    return f"{shown(str(source))} " if isinstance(source, Path) else ""


def _packed(value: Any, mode: str) -> Any:
    if isinstance(value, Image.Image):
        return PackedPicture.of(value, mode)
    return [_packed(each, mode) for each in value] if _holds(value, Image.Image) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, PackedPicture):
        return value.opened()
    return [_unpacked(each) for each in value] if _holds(value, PackedPicture) else value


def _holds(value: Any, kind: type) -> bool:
    """Whether a list, or a list of lists, has something of a kind in it."""
    return isinstance(value, (list, tuple)) and any(isinstance(each, kind) or _holds(each, kind) for each in value)
