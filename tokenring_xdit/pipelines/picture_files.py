"""The pictures and videos that a config names: files, and URLs of pictures where the ranks may reach them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line, shown
from tokenring_xdit.pipelines.media import missing_for_videos
from tokenring_xdit.pipelines.options import MOST
from tokenring_xdit.pipelines.pictures import GREY, VIDEOS, read_picture, refuse_mode
from tokenring_xdit.pipelines.run_values import is_url

__all__ = ["STAND_IN", "read_files"]

_MOST_PIXELS = 1 << 30
"""Of all frames of a video together, which are held at once: 3 GiB."""

STAND_IN = Image.new("RGB", (64, 64), (128, 128, 128))
"""For a picture that is not here yet."""


def read_files(files: Mapping[str, tuple[str, ...]], *, fetch: bool = True) -> dict[str, list[Image.Image]]:
    """Read pictures as diffusers' ``load_image`` does, and a video's frames as its ``load_video`` does.

    Args:
        files: Names of files or URLs, by the arguments of a pipeline that they are for. One for a video holds all its
            frames, several hold one each.
        fetch: Whether URLs are fetched; a grey picture stands for them otherwise.

    Raises:
        ConfigurationError: One is no picture or video, or cannot be read.
    """
    found = {}
    for name, several in files.items():
        mode = "L" if name in GREY else "RGB"
        if name in VIDEOS and len(several) == 1:
            found[name] = _frames(name, several[0], mode)
        else:
            found[name] = [_read(name, each, fetch).convert(mode) for each in several]
    return found


def _read(name: str, file: str, fetch: bool) -> Image.Image:
    if not is_url(file):
        return read_picture(Path(file), name)
    if not fetch:
        return STAND_IN
    from diffusers.utils import load_image

    try:
        picture: Image.Image = load_image(file, convert_method=lambda fetched: fetched)
    except Exception as error:  # of requests, urllib3 or Pillow
        raise ConfigurationError(f"{name}: {shown(file)} cannot be fetched: {one_line(str(error))}") from error
    refuse_mode(name, picture)
    return picture


def _frames(name: str, file: str, mode: str) -> list[Image.Image]:
    for package in missing_for_videos():
        raise ConfigurationError(
            f"{name}: {shown(file)} cannot be read without {package}: pip install 'tokenring-xdit[video]', or list the "
            "files of its frames"
        )
    import imageio

    frames: list[Image.Image] = []
    pixels = 0
    try:
        with imageio.get_reader(file, "ffmpeg") as opened:
            reader: Any = opened
            for frame in reader:
                pixels += frame.shape[0] * frame.shape[1]
                if len(frames) == MOST["frames"]:
                    raise ConfigurationError(f"{name}: {shown(file)} has more than {MOST['frames']} frames")
                if pixels > _MOST_PIXELS:
                    raise ConfigurationError(
                        f"{name}: {shown(file)} has more than {_MOST_PIXELS} pixels in all its frames together: cut "
                        "it, or make it smaller"
                    )
                frames.append(Image.fromarray(frame).convert(mode))
    except ConfigurationError:
        raise
    except Exception as error:  # of imageio and of the ffmpeg that it starts, which says much
        reason = one_line(str(error)).strip()[:200] or type(error).__name__
        raise ConfigurationError(f"{name}: {shown(file)} is no video that ffmpeg reads: {reason}") from error
    return frames
