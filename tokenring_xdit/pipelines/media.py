"""What a diffusers pipeline gives back, and files of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import ConfigurationError, OutputError, UnsupportedError
from tokenring_xdit.outputs import replacing

__all__ = ["media_of", "missing_for_videos", "save"]


def media_of(output: Any) -> list[Any]:
    """The pictures of a pipeline's output, or its videos as lists of frames; in the order of the prompts.

    Args:
        output: What a diffusers pipeline returned. With an ``output_type`` other than PIL pictures, the arrays or
            tensors in it are cut into one for each prompt.
    """
    for name in ("images", "frames"):
        found = getattr(output, name, None)
        if found is not None:
            return list(found)
    if getattr(output, "video", None) is not None:
        return [output.video]  # of the one prompt that such a pipeline takes
    raise UnsupportedError(f"a {type(output).__name__} holds neither pictures nor frames")


def missing_for_videos() -> list[str]:
    """Packages that write videos and are not installed."""
    return [package for package in ("imageio", "imageio_ffmpeg") if find_spec(package) is None]


def save(medium: Any, path: Path | str, *, frames_per_second: int = 16) -> None:
    """Write a picture as PNG, or a video as MP4 (without sound).

    Args:
        medium: A PIL picture, or a list of them, as :func:`media_of` returns them.
        path: A name that ends in ``.png`` or ``.mp4``.
        frames_per_second: Frames per second of the video.

    Raises:
        ConfigurationError: The name does not fit, or what writes videos is not installed.
        OutputError: It cannot be written.
    """
    path = Path(path)
    video = isinstance(medium, Sequence)
    wanted = ".mp4" if video else ".png"
    if path.suffix.lower() != wanted:
        raise ConfigurationError(
            f"'{path}': a {'video' if video else 'picture'} is written, so the name has to end in {wanted}"
        )
    if not video:
        with replacing(path) as draft:
            medium.save(draft)
        return
    for package in missing_for_videos():
        raise ConfigurationError(f"'{path}' cannot be written without {package}: pip install 'tokenring-xdit[video]'")
    from diffusers.utils import export_to_video

    # Sixteen, the default, would stretch other sizes; the common pixel format needs even ones.
    with replacing(path) as draft:
        export_to_video(medium, str(draft), fps=frames_per_second, macro_block_size=2)
        _refuse_cut_off(draft, len(medium), path)


def _refuse_cut_off(written: Path, frames: int, path: Path) -> None:
    """Look whether a video is whole: imageio does not tell when its ffmpeg fails, on a full disk for one."""
    from imageio_ffmpeg import count_frames_and_secs  # type: ignore[import-untyped]

    try:
        found = count_frames_and_secs(str(written))[0]
    except (OSError, RuntimeError):
        found = 0
    if found != frames:
        raise OutputError(f"{path} could not be written: ffmpeg wrote {found} of {frames} frames; the disk may be full")
