"""Which pictures, and which strength, a diffusers pipeline takes: it looks at them in the middle of its work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from tokenring_xdit.pipelines.options import is_number, is_whole, shortly
from tokenring_xdit.pipelines.pictures import MODES, PICTURES

__all__ = ["check_adapter", "check_pictures", "check_strength", "steps_taken"]

_MOST = 64
"""Pictures of an option: more are a slip of the finger."""


def check_pictures(
    name: str, value: Any, *, prompts: int, copies: int, references: bool, largest_side: int
) -> Iterator[str]:
    """What is wrong with the value of an option that is a picture, or several, if anything is.

    Args:
        name: Of the option, one of :data:`~tokenring_xdit.pipelines.pictures.PICTURES`.
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
        if isinstance(each, Image.Image) and max(each.size) > largest_side:
            yield f"{name} has {each.width} x {each.height} pixels, and {largest_side} are the most on a side"
        elif isinstance(each, Image.Image) and each.mode not in MODES:
            yield f"{name} is a picture of the mode {each.mode}; convert it to RGB"
        elif isinstance(each, Image.Image) and not each.width * each.height:
            yield f"{name} is a picture without pixels"


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


def check_adapter(name: str, value: Any) -> Iterator[str]:
    """Refuse what is for IP-Adapters."""
    if value is not None:
        yield (
            f"{name} is for IP-Adapters, which were not compared with the single process and are not loaded: use "
            "diffusers alone"
        )


def _flat(value: Any, *, deep: bool) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each, deep=deep) if deep and isinstance(each, (list, tuple)) else [each]
    else:
        yield value
