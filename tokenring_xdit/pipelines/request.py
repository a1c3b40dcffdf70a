"""What is asked of a diffusers pipeline, in words that are the same for all of them, and what it gives back.

Pipelines differ in the names of their arguments and in what they take; both are read from the signature of
their class, so that a request can be refused before any weights are loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tokenring_xdit.defaults import LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, OutputError, UnsupportedError, nearest
from tokenring_xdit.hosts.models import pipeline_named, pipelines
from tokenring_xdit.outputs import replacing
from tokenring_xdit.pipelines.options import COUNTED, MOST, check_option, is_number, is_whole, shortly

__all__ = [
    "DRAWN_SEEDS",
    "LARGEST_SEED",
    "Request",
    "call_arguments",
    "defaults_of",
    "image_keyword",
    "is_video",
    "media_of",
    "missing_for_videos",
    "mistakes",
    "needs_picture",
    "pictures_of",
    "pipeline_class",
    "save",
    "takes_picture",
    "value_mistakes",
]

_USUAL = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "seed": "generator",
    "guidance": "guidance_scale",
}
"""Fields of a request, and what most pipelines call them."""

_SPELLINGS: dict[str, tuple[str, ...]] = {
    name: (usual, *(each.spellings[name] for each in pipelines().values() if name in each.spellings))
    for name, usual in _USUAL.items()
}
"""Fields of a request, and what pipelines call them."""

_COUNTS = ("width", "height", "frames", "steps")

_OURS = frozenset(
    {
        "self",
        "return_dict",
        "callback",
        "callback_steps",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }
)
"""Arguments of a pipeline's call that are not for a request to set."""

_ALONGSIDE = frozenset({"image"}.union(*(pipeline.each_prompt for pipeline in pipelines().values())))
"""Options of which a list means one for each prompt."""

LARGEST_SEED = 2**63 - 1

DRAWN_SEEDS = 2**31
"""Seeds that are drawn are below this, short enough to be typed again."""


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

    def part(self, start: int, stop: int) -> Request:
        """The request for some of the prompts, with the seeds that they have in the whole."""
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
            options={name: cut(value) if name in _ALONGSIDE else value for name, value in self.options.items()},
        )


def pipeline_class(name: str) -> type:
    """The class of diffusers with that name, as :func:`~tokenring_xdit.pipelines.loading.pipeline_class_of` says it.

    Raises:
        UnsupportedError: diffusers has none.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise UnsupportedError(f"diffusers {diffusers.__version__} has no pipeline {name}: a newer one may have it")
    return found


def is_video(pipeline_class: type) -> bool:
    """Whether a pipeline makes videos instead of pictures."""
    return _spelling(_parameters(pipeline_class), "frames") is not None


def defaults_of(pipeline_class: type) -> dict[str, Any]:
    """What of a request a pipeline takes, by the names of :class:`Request`, and what it takes without it."""
    parameters = _parameters(pipeline_class)
    spellings = {name: spelling for name in _SPELLINGS if (spelling := _spelling(parameters, name)) is not None}
    given = {name: parameters[spelling].default for name, spelling in spellings.items()}
    return {name: None if default is inspect.Parameter.empty else default for name, default in given.items()}


def image_keyword(pipeline_class: type) -> str:
    """What a pipeline calls the picture that it starts from, or is controlled by."""
    return pipeline_named(pipeline_class.__name__).image


def takes_picture(pipeline_class: type) -> bool:
    """Whether a pipeline starts from a picture, or is controlled by one."""
    return image_keyword(pipeline_class) in _parameters(pipeline_class)


def needs_picture(pipeline_class: type) -> bool:
    """Whether a pipeline makes nothing without a picture: its call has no default for it, or its record says so."""
    known = pipeline_named(pipeline_class.__name__)
    parameter = _parameters(pipeline_class).get(known.image)
    return parameter is not None and (parameter.default is parameter.empty or known.needs_picture)


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
    parameters = _parameters(pipeline_class)
    arguments: dict[str, Any] = {}
    for name in _SPELLINGS:
        spelling = _spelling(parameters, name)
        if spelling is not None and getattr(request, name) is not None:
            arguments[spelling] = _as_argument(request, name, parameters[spelling])
    arguments |= request.options
    if "output_type" in parameters:
        arguments.setdefault("output_type", "pil")
    return arguments


def mistakes(pipeline_class: type, request: Request) -> list[str]:
    """What of a request a pipeline cannot take: values of the wrong type or out of range, unknown or missing ones."""
    parameters = _parameters(pipeline_class)
    if not isinstance(request.options, (dict, MappingProxyType)):
        return [f"options is {shortly(request.options)}; it has to be a mapping of names to values"]
    found = value_mistakes(request)
    found += [
        f"{pipeline_class.__name__} takes no {name}. It takes: {', '.join(_taken(parameters))}"
        for name in _SPELLINGS
        if getattr(request, name) is not None and _spelling(parameters, name) is None
    ]
    found += _check_options(pipeline_class, parameters, request)
    given = {s for name in _SPELLINGS if getattr(request, name) is not None and (s := _spelling(parameters, name))}
    picture = image_keyword(pipeline_class) if needs_picture(pipeline_class) else None
    found += [
        f"{pipeline_class.__name__} needs '{name}', which was not given"
        for name, parameter in parameters.items()
        if (parameter.default is parameter.empty or name == picture)
        and name not in given | _OURS | set(request.options)
    ]
    return found


def value_mistakes(request: Request) -> list[str]:
    """What is wrong with prompts and numbers of a request, whichever pipeline it is for."""
    return [*_check_prompts(request), *_check_values(request)]


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
    raise UnsupportedError(f"a {type(output).__name__} holds neither pictures nor frames")


def missing_for_videos() -> list[str]:
    """Packages that write videos and are not installed."""
    return [package for package in ("imageio", "imageio_ffmpeg") if find_spec(package) is None]


def save(medium: Any, path: Path | str, *, frames_per_second: int = 16) -> None:
    """Write a picture as PNG, or a video as MP4 (without sound).

    Args:
        medium: A PIL picture, or a list of them, as :func:`media_of` returns them.
        path: A name that ends in ``.png`` or ``.mp4``.
        frames_per_second: Of the video.

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


def _parameters(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}  # deprecated names, unsaid


def _spelling(parameters: Mapping[str, inspect.Parameter], name: str) -> str | None:
    return next((s for s in _SPELLINGS[name] if s in parameters), None)


def _taken(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name in _SPELLINGS if _spelling(parameters, name)]


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
                f"{name} is {shortly(value)} pixels, and {request.largest_side} are the most that are drawn unless "
                "largest_side says otherwise"
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


def _check_options(
    pipeline_class: type, parameters: Mapping[str, inspect.Parameter], request: Request
) -> Iterator[str]:
    name, call = pipeline_class.__name__, pipeline_class.__call__
    ours = {spelling: field.name for field in fields(Request) for spelling in _SPELLINGS.get(field.name, ())}
    known = [n for n in parameters if n not in ours and n not in _OURS]
    pictures = pictures_of(request) if _is_text(request.prompt) else 0
    taken = {ours[n] for n in parameters if n in ours}  # with names of ours, beside the options
    for option, value in request.options.items():
        if option in ours:
            yield f"option '{option}' is called '{ours[option]}' here"
        elif option not in known:
            yield f"{name} takes no option {option!r}. {nearest(str(option), [*known, *taken])}"
        else:
            yield from check_option(call, parameters[option], value, pictures, request.steps)


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(isinstance(text, str) for text in value)
    return isinstance(value, str)
