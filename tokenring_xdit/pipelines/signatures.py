"""What the call of a diffusers pipeline takes, as the signature of its class and its record say; needs no weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.models import pipeline_named, pipelines

__all__ = [
    "OURS",
    "SPELLINGS",
    "defaults_of",
    "image_keyword",
    "is_video",
    "needed_options",
    "needs_picture",
    "parameters_of",
    "pipeline_class",
    "spelling_of",
    "takes",
    "takes_picture",
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

SPELLINGS: dict[str, tuple[str, ...]] = {
    name: (usual, *(each.spellings[name] for each in pipelines().values() if name in each.spellings))
    for name, usual in _USUAL.items()
}
"""Fields of a request, and what pipelines call them."""

OURS = frozenset(
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
    """Whether a pipeline makes videos instead of pictures: with a given number of frames, or those of a video."""
    parameters = parameters_of(pipeline_class)
    return spelling_of(parameters, "frames") is not None or "video" in parameters


def defaults_of(pipeline_class: type) -> dict[str, Any]:
    """What of a request a pipeline takes, by the names of :class:`Request`, and what it takes without it."""
    parameters = parameters_of(pipeline_class)
    spellings = {name: spelling for name in SPELLINGS if (spelling := spelling_of(parameters, name)) is not None}
    given = {name: parameters[spelling].default for name, spelling in spellings.items()}
    return {name: None if default is inspect.Parameter.empty else default for name, default in given.items()}


def image_keyword(pipeline_class: type) -> str:
    """What a pipeline calls the picture that it starts from, or is controlled by."""
    return pipeline_named(pipeline_class.__name__).image


def needed_options(pipeline_class: type) -> tuple[str, ...]:
    """Options without which a pipeline makes nothing, although its call has a default for them."""
    known = pipeline_named(pipeline_class.__name__)
    return (*((known.image,) if needs_picture(pipeline_class) else ()), *known.needs)


def takes(pipeline_class: type, name: str) -> bool:
    """Whether the call of a pipeline has an argument of that name."""
    return name in parameters_of(pipeline_class)


def takes_picture(pipeline_class: type) -> bool:
    """Whether a pipeline starts from a picture, or is controlled by one."""
    return image_keyword(pipeline_class) in parameters_of(pipeline_class)


def needs_picture(pipeline_class: type) -> bool:
    """Whether a pipeline makes nothing without a picture: its call has no default for it, or its record says so."""
    known = pipeline_named(pipeline_class.__name__)
    parameter = parameters_of(pipeline_class).get(known.image)
    return parameter is not None and (parameter.default is parameter.empty or known.needs_picture)


def parameters_of(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of its call, by name."""
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}  # deprecated names, unsaid


def spelling_of(parameters: Mapping[str, inspect.Parameter], name: str) -> str | None:
    """What a call names a field of a request; ``None`` where it takes none."""
    return next((s for s in SPELLINGS[name] if s in parameters), None)
