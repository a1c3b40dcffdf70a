"""What is asked of a diffusers pipeline, in words that are the same for all of them, and what it gives back.

Pipelines differ in the names of their arguments and in what they take; both are read from the signature of
their class, so that a request can be refused before any weights are loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from tokenring_xdit.defaults import LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.hosts.models import pipeline_named, pipelines
from tokenring_xdit.pipelines.media import media_of, missing_for_videos, save
from tokenring_xdit.pipelines.options import COUNTED, MOST, check_option
from tokenring_xdit.pipelines.picture_options import (
    check_adapter,
    check_embeddings,
    check_frames,
    check_pictures,
    check_strength,
    check_video,
)
from tokenring_xdit.pipelines.pictures import MASKS, PICTURES, VIDEOS, packed_options, unpacked_options
from tokenring_xdit.pipelines.signatures import (
    OURS,
    SPELLINGS,
    defaults_of,
    image_keyword,
    is_video,
    needed_options,
    needs_picture,
    parameters_of,
    pipeline_class,
    spelling_of,
    takes_picture,
)
from tokenring_xdit.pipelines.values import LARGEST_SEED, is_number, is_whole, shortly
from tokenring_xdit.sizes import nearest_multiple

__all__ = [
    "DRAWN_SEEDS",
    "Request",
    "call_arguments",
    "defaults_of",
    "image_keyword",
    "is_video",
    "media_of",
    "missing_for_videos",
    "mistakes",
    "needs_picture",
    "packed",
    "pictures_of",
    "pipeline_class",
    "save",
    "takes_picture",
    "unpacked",
    "value_mistakes",
]

_COUNTS = ("width", "height", "frames", "steps")

_TEXTS = ("prompt", "negative_prompt")

_MORE_TEXT = re.compile(r"(negative_)?prompt_\d")
"""Options that are texts for further encoders."""

_EMBEDDINGS = "prompt_embeds"
"""What calls name a text that was encoded before: of Redux, say."""

_ALONGSIDE = frozenset({"image", *MASKS}.union(*(pipeline.each_prompt for pipeline in pipelines().values())))
"""Options of which a list means one for each prompt."""

DRAWN_SEEDS = 2**31
"""Random seeds are below this, short enough to be typed again."""


@dataclass(frozen=True)
class Request:
    """Pictures or videos to make; ``None`` leaves a value to the pipeline.

    Attributes:
        prompt: One prompt, or several that are made together.
        negative_prompt: What to guide away from: one for all prompts, or one for each.
        width: Width in pixels.
        height: Height in pixels.
        frames: Frames of a video.
        steps: Denoising steps.
        seed: Seed of the first picture; the next ones have the numbers that follow.
        guidance: Guidance scale.
        options: Further arguments of the pipeline's call.
        largest_side: Pixels that width and height may have.
    """

    prompt: str | tuple[str, ...]
    negative_prompt: str | tuple[str, ...] | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    steps: int | None = None
    seed: int | None = None
    guidance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    largest_side: int = LARGEST_SIDE

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, also where it is one."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    def part(self, start: int, stop: int, *, references: bool = False) -> Request:
        """The request for some of the prompts, with the seeds that they have in the whole.

        Args:
            start: The first prompt.
            stop: The one behind the last.
            references: Whether all pictures of a list are for each prompt, instead of one for each.
        """
        cut_too = _ALONGSIDE - PICTURES if references else _ALONGSIDE
        prompts = self.prompts
        if (start, stop) == (0, len(prompts)):
            return self

        def cut(value: Any) -> Any:
            return value[start:stop] if isinstance(value, (list, tuple)) and len(value) == len(prompts) else value

        return replace(
            self,
            prompt=prompts[start:stop],
            negative_prompt=cut(self.negative_prompt),
            seed=None if self.seed is None else self.seed + start * _copies(self),
            options={name: cut(value) if name in cut_too else value for name, value in self.options.items()},
        )


def packed(request: Request) -> Request:
    """A request as it is sent to ranks: its pictures are packed."""
    return replace(request, options=packed_options(request.options))


def unpacked(request: Request) -> Request:
    """What :func:`packed` was given."""
    return replace(request, options=unpacked_options(request.options))


def pictures_of(request: Request) -> int:
    """How many pictures or videos a request makes."""
    return len(request.prompts) * _copies(request)


def call_arguments(pipeline_class: type, request: Request) -> dict[str, Any]:
    """The keyword arguments of a diffusers pipeline's call; needs no weights.

    Every picture has a generator of its own on the CPU, so that it is the same whichever others are made with it.

    Args:
        pipeline_class: The class, from :func:`pipeline_class`.
        request: What to make. Without a seed the arguments have no generator.

    Raises:
        ConfigurationError: There are :func:`mistakes`.
    """
    found = mistakes(pipeline_class, request)
    if found:
        raise ConfigurationError("; ".join(found))
    parameters = parameters_of(pipeline_class)
    if pipeline_named(pipeline_class.__name__).one_prompt:  # of which not all take a list of one
        alone = {name: value[0] for name in _TEXTS if isinstance(value := getattr(request, name), (tuple, list))}
        request = replace(request, **alone)
    arguments: dict[str, Any] = {}
    for name in SPELLINGS:
        spelling = spelling_of(parameters, name)
        if spelling is not None and getattr(request, name) is not None:
            arguments[spelling] = _as_argument(request, name, parameters[spelling])
    arguments |= request.options
    if request.options.get(_EMBEDDINGS) is not None:
        arguments["prompt"] = None
    if "output_type" in parameters:
        arguments.setdefault("output_type", "pil")
    return arguments


def mistakes(pipeline_class: type, request: Request) -> list[str]:
    """What of a request a pipeline cannot take: values of the wrong type or out of range, unknown or missing ones."""
    parameters = parameters_of(pipeline_class)
    if not isinstance(request.options, (dict, MappingProxyType)):
        return [f"options is {shortly(request.options)}; it has to be a mapping of names to values"]
    found = value_mistakes(request)
    found += _check_sides(pipeline_class.__name__, request)
    found += [
        f"{pipeline_class.__name__} takes no {name}. It takes: {', '.join(_taken(parameters))}"
        for name in SPELLINGS
        if getattr(request, name) is not None and spelling_of(parameters, name) is None
    ]
    if _is_text(request.prompt) and len(request.prompts) > 1 and pipeline_named(pipeline_class.__name__).one_prompt:
        found.append(
            f"{pipeline_class.__name__} takes one prompt, and {len(request.prompts)} were given: make one after another"
        )
    found += _check_guidance(parameters, request)
    found += _check_options(pipeline_class, parameters, request)
    given = {s for name in SPELLINGS if getattr(request, name) is not None and (s := spelling_of(parameters, name))}
    given |= {name for name, value in request.options.items() if value is not None or name not in PICTURES | VIDEOS}
    needed = needed_options(pipeline_class)
    found += [
        f"{pipeline_class.__name__} needs '{name}', which was not given"
        for name, parameter in parameters.items()
        if (parameter.default is parameter.empty or name in needed) and name not in given | OURS
    ]
    return found


def value_mistakes(request: Request) -> list[str]:
    """What is wrong with prompts and numbers of a request, whichever pipeline it is for."""
    return [*_check_prompts(request), *_check_values(request)]


def _taken(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name in SPELLINGS if spelling_of(parameters, name)]


def _copies(request: Request) -> int:
    """Pictures for each prompt."""
    given = (request.options[name] for name in COUNTED if name in request.options)
    return next((value for value in given if is_whole(value) and value > 0), 1)


def _as_argument(request: Request, name: str, parameter: inspect.Parameter) -> Any:
    value = getattr(request, name)
    if name == "seed":
        return _generators(value, pictures_of(request))
    if isinstance(value, tuple):
        return list(value)
    listed = "list[str]" in str(parameter.annotation).lower()  # or typing.List
    if name == "negative_prompt" and not isinstance(request.prompt, str) and listed:
        return [value] * len(request.prompts)  # some pipelines do not repeat it themselves
    return value


def _generators(seed: int, count: int) -> torch.Generator | list[torch.Generator]:
    each = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
    return each[0] if count == 1 else each


def _check_values(request: Request) -> Iterator[str]:
    for name in _COUNTS:
        value = getattr(request, name)
        most = MOST.get(name)
        if value is not None and (not is_whole(value) or value < 1):
            yield f"{name} is {shortly(value)}; it has to be a whole number of at least 1"
        elif value is not None and most is not None and value > most:
            yield f"{name} is {shortly(value)}; {most} are the most"
        elif value is not None and most is None and value > request.largest_side:
            yield (
                f"{name} is {shortly(value)} pixels, and {request.largest_side} are the most unless largest_side says "
                "otherwise"
            )
    if request.seed is not None and (not is_whole(request.seed) or not 0 <= request.seed <= LARGEST_SEED):
        yield f"seed is {request.seed!r}; it has to be a whole number from 0 to 2**63 - 1"
    if request.guidance is not None and (not is_number(request.guidance) or request.guidance < 0):
        yield f"guidance is {shortly(request.guidance)}; it has to be a number of at least 0"


def _check_prompts(request: Request) -> Iterator[str]:
    if not _is_text(request.prompt):
        yield f"prompt is {shortly(request.prompt)}; it has to be a string, or a list of at least one string"
        return
    negative = request.negative_prompt
    if negative is None or isinstance(negative, str):
        return
    if not _is_text(negative) or len(negative) != len(request.prompts):
        yield (
            f"negative_prompt is {shortly(negative)}; it has to be a string, or a list of one string for each of the "
            f"{len(request.prompts)} prompts"
        )


def _check_sides(pipeline: str, request: Request) -> Iterator[str]:
    """What is wrong with the size that is asked for, if that is known of a pipeline."""
    unit, sides = pipeline_named(pipeline).multiple, (request.width, request.height)
    if any(side is not None and is_whole(side) and side > 0 and side % unit for side in sides):
        asked = "x".join("any" if side is None else str(side) for side in sides)
        fitting = "x".join("any" if side is None else str(nearest_multiple(side, unit)) for side in sides)
        yield f"size {asked} is not a multiple of {unit} pixels on both sides, as {pipeline} wants; {fitting} is"


def _check_guidance(parameters: Mapping[str, inspect.Parameter], request: Request) -> Iterator[str]:
    """What the pipeline would leave out without a word."""
    if "true_cfg_scale" not in parameters or not request.negative_prompt:
        return
    scale = request.options.get("true_cfg_scale", parameters["true_cfg_scale"].default)
    if is_number(scale) and scale <= 1:
        yield f"negative_prompt has no effect with true_cfg_scale={scale}: set the option true_cfg_scale above 1"


def _check_options(
    pipeline_class: type, parameters: Mapping[str, inspect.Parameter], request: Request
) -> Iterator[str]:
    name, call = pipeline_class.__name__, pipeline_class.__call__
    ours = {spelling: field.name for field in fields(Request) for spelling in SPELLINGS.get(field.name, ())}
    known = [n for n in parameters if n not in ours and n not in OURS and "ip_adapter" not in n]
    pictures = pictures_of(request) if _is_text(request.prompt) else 0
    taken = {ours[n] for n in parameters if n in ours}  # with names of ours, beside the options
    defaults = defaults_of(pipeline_class)
    steps = defaults.get("steps") if request.steps is None else request.steps
    frames = defaults.get("frames") if request.frames is None else request.frames
    for option, value in request.options.items():
        if option in ours:
            yield f"option '{option}' is called '{ours[option]}' here"
        elif option in parameters and "ip_adapter" in option:
            yield from check_adapter(option, value)
        elif option not in known:
            yield f"{name} takes no option {option!r}. {nearest(str(option), [*known, *taken])}"
        elif option == "strength":
            yield from check_strength(value, steps)
        elif _MORE_TEXT.fullmatch(option) and pictures and _is_text(value) and not isinstance(value, str):
            if len(value) != len(request.prompts):
                yield (
                    f"{option} is {shortly(value)}; it has to be a string, or a list of one string for each of the "
                    f"{len(request.prompts)} prompts"
                )
        elif option == _EMBEDDINGS:
            yield from check_embeddings(option, value, request.prompts if pictures else ())
            yield from check_option(call, parameters[option], value, pictures, request.steps)
        elif option in VIDEOS:
            yield from check_video(option, value, drawn=pictures, largest_side=request.largest_side)
            if pipeline_named(name).whole_video:
                yield from check_frames(option, value, frames)
        elif option in PICTURES and not isinstance(value, (np.ndarray, torch.Tensor)):
            yield from check_pictures(
                option,
                value,
                prompts=len(request.prompts) if pictures else 0,
                copies=_copies(request),
                references=pipeline_named(name).references,
                largest_side=request.largest_side,
            )
        else:
            yield from check_option(call, parameters[option], value, pictures, request.steps)


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(isinstance(text, str) for text in value)
    return isinstance(value, str)
