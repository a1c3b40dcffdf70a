"""The pictures that a config names: files, and URLs where the ranks may reach them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line, shown
from tokenring_xdit.pipelines.pictures import read_picture, refuse_mode

__all__ = ["GREY", "is_url", "read_files"]

GREY = Image.new("RGB", (64, 64), (128, 128, 128))
"""Stands for a picture that is not here yet."""


def is_url(name: str) -> bool:
    """Whether a picture is fetched, instead of being a file."""
    return name.startswith(("http://", "https://"))


def read_files(files: Mapping[str, tuple[str, ...]], *, fetch: bool = True) -> dict[str, list[Image.Image]]:
    """Read pictures as diffusers' ``load_image`` does.

    Args:
        files: Names of files or URLs, by the arguments of a pipeline that they are for.
        fetch: Whether URLs are fetched; a grey picture stands for them otherwise.

    Raises:
        ConfigurationError: One is no picture, or cannot be read.
    """
    return {name: [_read(name, each, fetch) for each in several] for name, several in files.items()}


def _read(name: str, file: str, fetch: bool) -> Image.Image:
    if not is_url(file):
        return read_picture(Path(file), name).convert("RGB")
    if not fetch:
        return GREY
    from diffusers.utils import load_image

    try:
        picture: Image.Image = load_image(file, convert_method=lambda fetched: fetched)
    except Exception as error:  # of requests, urllib3 or Pillow
        raise ConfigurationError(f"{name}: {shown(file)} cannot be fetched: {one_line(str(error))}") from error
    refuse_mode(name, picture)
    return picture.convert("RGB")
