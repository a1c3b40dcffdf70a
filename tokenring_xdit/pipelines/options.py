"""Which values the options of a diffusers pipeline's call may have, as far as its signature and plain sense tell.

A pipeline looks at few of its arguments, and at most of these in the middle of its work, on all ranks.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from tokenring_xdit.pipelines.values import is_number, is_whole, shortly

__all__ = ["COUNTED", "MOST", "check_option"]

MOST = {"frames": 10_000, "steps": 1_000_000}
"""What nobody means to ask for; both are a slip of the finger that would take days, or all memory."""

COUNTED = {"num_images_per_prompt": 1_000, "num_videos_per_prompt": 1_000}
"""Options that count something, and the most of it."""

STEP_SCHEDULES = ("sigmas", "timesteps")
"""Options that say each step, in the place of how many there are."""

_SCALARS = (bool, int, float, str)


def check_option(
    call: Any, parameter: inspect.Parameter, value: Any, pictures: int, steps: int | None
) -> Iterator[str]:
    """What is wrong with the value of an option, if anything is.

    Args:
        call: The pipeline's ``__call__``.
        parameter: The option there.
        value: Its value.
        pictures: How many pictures or videos are asked for.
        steps: How many denoising steps, where that is said.
    """
    name = parameter.name
    if name == "output_type":
        yield from _check_output_type(call, value)
    elif name in COUNTED:
        if value is not None and (not is_whole(value) or not 1 <= value <= COUNTED[name]):
            yield f"{name} is {shortly(value)}; it has to be a whole number from 1 to {COUNTED[name]}"
    elif name in STEP_SCHEDULES and value is not None:
        yield from _check_schedule(name, value, steps)
    elif name == "latents" and value is not None:
        yield from _check_latents(value, pictures)
    else:
        yield from _check_kind(parameter, value)


def _check_output_type(call: Any, value: Any) -> Iterator[str]:
    raw = "latent" if "latent" in inspect.unwrap(call).__code__.co_consts else "latents"  # Latte's word
    known = ("pil", "np", "pt", raw)
    if value not in known:
        yield f"output_type is {shortly(value)}; it has to be one of {', '.join(known)}"


def _check_schedule(name: str, value: Any, steps: int | None) -> Iterator[str]:
    numbers = _as_list(value)
    if not isinstance(numbers, (list, tuple)) or not numbers or not all(is_number(n) and n >= 0 for n in numbers):
        yield f"{name} is {shortly(value)}; it has to be a list of finite numbers of at least 0, with one for each step"
    elif len(numbers) > MOST["steps"]:
        yield f"{name} has {len(numbers)} numbers; {MOST['steps']} are the most"
    elif steps is not None and steps != len(numbers):
        yield f"{name} has {len(numbers)} numbers, one for each step, and steps is {steps}: leave steps out"


def _check_latents(value: Any, pictures: int) -> Iterator[str]:

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 3:
        yield f"latents is {_tensor_in_words(value)}; it has to be a tensor of floating point numbers, a row a picture"
    elif value.shape[0] != pictures:
        yield f"latents has {value.shape[0]} rows, and {pictures} pictures or videos are asked for: give one for each"
    elif not _is_finite(value):
        yield "latents has numbers that are not finite"


def _check_kind(parameter: inspect.Parameter, value: Any) -> Iterator[str]:
    """Refuse plain values of a kind that the signature does not have, and numbers that are none."""
    name, kinds = parameter.name, _kinds(parameter.annotation)
    if value is None or isinstance(value, _SCALARS):
        fits = (
            value is parameter.default
            or Any in kinds
            or type(value) in kinds
            or (value is None and parameter.default is None)
            or (is_whole(value) and float in kinds)
        )
        if not fits and kinds & {*_SCALARS, dict, list, tuple}:
            yield f"{name} is {shortly(value)}; it has to be {_in_words(kinds)}"
            return
    elif kinds and kinds <= {*_SCALARS, type(None)}:
        yield f"{name} is {_tensor_in_words(value)}; it has to be {_in_words(kinds)}"
        return
    if not _is_finite(value):
        yield f"{name} has a number that is not finite" if not isinstance(value, float) else f"{name} is {value}"


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation names, without what is inside their brackets."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return {Any}
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return set().union(*(_kinds(each) for each in typing.get_args(annotation)))
    return {typing.get_origin(annotation) or annotation}


def _in_words(kinds: set[Any]) -> str:
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "a string",
        type(None): "None",
    }
    known = [word for kind, word in words.items() if kind in kinds and not (kind is int and float in kinds)]
    return " or ".join([*known, *sorted(f"a {kind.__name__}" for kind in kinds if kind not in words)])


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value are, also those in lists, mappings, arrays and tensors."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))

    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return True


def _as_list(value: Any) -> Any:
    """Arrays and tensors as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _tensor_in_words(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return shortly(value) if shape is None else f"a {type(value).__name__} of shape {tuple(shape)}"
