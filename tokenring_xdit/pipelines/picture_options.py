"""Which pictures, and which strength, a diffusers pipeline takes: it looks at them in the middle of its work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from tokenring_xdit.pipelines.options import MOST
from tokenring_xdit.pipelines.pictures import MODES, PICTURES, VIDEOS
from tokenring_xdit.pipelines.values import is_number, is_whole, shortly

__all__ = [
    "check_adapter",
    "check_embeddings",
    "check_frames",
    "check_pictures",
    "check_strength",
    "check_video",
    "steps_taken",
]

_MOST = 64
"""Pictures of an option: more are a slip of the finger."""


def check_pictures(
    name: str, value: Any, *, prompts: int, copies: int, references: bool, largest_side: int
) -> Iterator[str]:
    """What is wrong with the value of an option that is a picture, or several, if anything is.

    Args:
        name: Name of the option, one of :data:`~tokenring_xdit.pipelines.pictures.PICTURES`.
        value: Its value.
        prompts: How many prompts there are.
        copies: How many pictures are asked for of each.
        references: Whether all pictures of a list are for each prompt, instead of one for each.
        largest_side: Pixels that width and height of pictures may have.
    """
    assert name in PICTURES
    if value is None:
        return
    if isinstance(value, (list, tuple)):
        if not value:
            yield f"{name} is an empty list"
            return
        if len(value) > _MOST:
            yield f"{name} has {len(value)} pictures; {_MOST} are the most"
            return
        if not references and len(value) not in {1, prompts}:
            yield f"{name} has {len(value)} pictures for {prompts} prompts: give one for all, or one for each"
            return
        if not references and len(value) > 1 and copies > 1:
            yield f"{name} has {len(value)} pictures, and {copies} of each prompt are asked for: list each prompt anew"
            return
    pictures = list(_flat(value, deep=references))
    if not pictures or not all(isinstance(each, (Image.Image, np.ndarray, torch.Tensor)) for each in pictures):
        yield f"{name} is {shortly(value)}; it has to be a PIL picture, or a list of them (PIL.Image.open)"
        return
    for each in pictures:
        yield from _check_picture(name, each, largest_side)


def check_video(name: str, value: Any, *, drawn: int, largest_side: int) -> Iterator[str]:
    """What is wrong with the value of an option that is a video, if anything is.

    Args:
        name: Name of the option, one of :data:`~tokenring_xdit.pipelines.pictures.VIDEOS`.
        value: Its value.
        drawn: How many videos are asked for.
        largest_side: Pixels that width and height of frames may have.
    """
    assert name in VIDEOS
    if value is None:
        return
    if drawn > 1:  # pipelines differ in what they make of one video for several prompts
        yield f"{name} is for one prompt at a time, and {drawn} videos are asked for: make one after the other"
        return
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, Image.Image) for each in value):
        yield f"{name} is {shortly(value)}; it has to be a list of frames, PIL pictures (diffusers.utils.load_video)"
        return
    if len(value) > MOST["frames"]:
        yield f"{name} has {len(value)} frames; {MOST['frames']} are the most"
        return
    sizes = {each.size for each in value}
    if len(sizes) > 1:
        first, other = value[0].size, next(each.size for each in value if each.size != value[0].size)
        yield f"{name} has frames of {first[0]} x {first[1]} and of {other[0]} x {other[1]} pixels; give all one size"
        return
    yield from {problem for each in value for problem in _check_picture(name, each, largest_side)}


def check_frames(name: str, value: Any, frames: int | None) -> Iterator[str]:
    """What is wrong with how long a video is, of a pipeline that makes as many frames as it is given.

    Args:
        name: Name of the option.
        value: Its value.
        frames: How many frames are made, as far as that is known.
    """
    if isinstance(value, (list, tuple)) and is_whole(frames) and len(value) != frames:
        yield f"{name} has {len(value)} frames, and {frames} are asked for: give as many, or set frames to {len(value)}"


def check_strength(value: Any, steps: Any) -> Iterator[str]:
    """What is wrong with how far a picture is regenerated, if anything is.

    Args:
        value: The strength.
        steps: How many denoising steps, as far as that is known.
    """
    if not is_number(value) or not 0 <= value <= 1:
        yield f"strength is {shortly(value)}; it has to be a number from 0 to 1"
    elif is_whole(steps) and steps > 0 and not steps_taken(steps, value):
        yield f"strength is {value}, of which {steps} steps leave none: give more of one of them"


def steps_taken(steps: int, strength: float | None) -> int:
    """How many denoising steps a strength leaves, as diffusers works it out."""
    return steps if strength is None else steps - int(max(steps - min(steps * strength, steps), 0))


def check_embeddings(name: str, value: Any, prompts: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with embeddings that stand in the place of a text, if anything is.

    Args:
        name: Name of the option.
        value: Its value.
        prompts: The text that was given.
    """
    if value is None:
        return
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.ndim:
        yield f"{name} is {shortly(value)}; it has to be a tensor of floating point numbers, a row a prompt"
    elif any(prompts):
        yield f"{name} stands in the place of the prompt, and {shortly(next(filter(None, prompts)))} was given: use ''"
    elif value.shape[0] != len(prompts):
        yield f"{name} has {value.shape[0]} rows for {len(prompts)} prompts: give '' as many times"


def check_adapter(name: str, value: Any) -> Iterator[str]:
    """Refuse what is for IP-Adapters."""
    if value is not None:
        yield (
            f"{name} is for IP-Adapters, which were not compared with the single process and are not loaded: use "
            "diffusers alone"
        )


def _check_picture(name: str, picture: Any, largest_side: int) -> Iterator[str]:
    """What is wrong with one picture, or frame; arrays and tensors are left to the pipeline."""
    if not isinstance(picture, Image.Image):
        return
    if max(picture.size) > largest_side:
        yield f"{name} has {picture.width} x {picture.height} pixels, and {largest_side} are the most on a side"
    elif picture.mode not in MODES:
        yield f"{name} is a picture of the mode {picture.mode}; convert it to RGB"
    elif not picture.width * picture.height:
        yield f"{name} is a picture without pixels"


def _flat(value: Any, *, deep: bool) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each, deep=deep) if deep and isinstance(each, (list, tuple)) else [each]
    else:
        yield value
