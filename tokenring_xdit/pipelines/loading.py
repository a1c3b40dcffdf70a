"""Models by the names that users give them: what can be known of one before it is loaded, and loading it on a rank."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.compat.diffusers import from_pretrained
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.models import pipelines
from tokenring_xdit.pipelines.choice import (
    PipelineChoice,
    class_for_task,
    refuse_controlnet,
    refuse_loras,
    refuse_scheduler,
)
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.flux import FluxModel, KontextModel
from tokenring_xdit.pipelines.model import EMBEDDED, Model, read_model_file
from tokenring_xdit.pipelines.random_flux import RandomFlux, is_random
from tokenring_xdit.pipelines.signatures import pipeline_class

__all__ = ["find_model", "load_pipeline", "pipeline_class_of", "refuse_choice"]

_FLUX = "FluxPipeline"

_SIZED = frozenset(
    {
        _FLUX,
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    }
)
"""Pipelines that take every Flux for one of 1024 pixels."""

_SCALED = frozenset({"FluxKontextPipeline", "FluxKontextInpaintPipeline"})
"""Pipelines that scale whatever size they are given to a number of pixels."""


def find_model(name: str, choice: PipelineChoice | None = None) -> Model:
    """What a model says of itself; of one that is to be loaded the configuration files are read, and nothing else.

    Args:
        name: Folder or hub name of a diffusers pipeline, ``embedded``, or ``random-flux:...``.
        choice: What is made of it; by default what it says itself.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared with the single process.
    """
    kind = pipeline_class_of(name, choice)
    if is_random(name):
        return RandomFlux.parse(name).model()
    known: type[Model] = FluxModel if kind in _SIZED else KontextModel if kind in _SCALED else Model
    return known.find(_resolved(name))


def pipeline_class_of(name: str, choice: PipelineChoice | None = None) -> str:
    """The class of a model's pipeline, read from its index; nothing else of it is read.

    Args:
        name: As for :func:`find_model`.
        choice: As for :func:`find_model`.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared with the single process, or nothing is made of it for the task.
    """
    index = {"_class_name": _FLUX} if is_random(name) else read_model_file(_resolved(name), "model_index.json")
    choice = choice or PipelineChoice()
    found = class_for_task(str(index.get("_class_name")), choice.task, controlled=choice.controlnet is not None)
    if found not in pipelines():
        raise UnsupportedError(
            f"'{name}' is a {found}, which has not been compared with the single process yet. "
            f"Use diffusers alone, on one rank, or one of: {', '.join(pipelines())}"
        )
    return found


def refuse_choice(name: str, choice: PipelineChoice) -> None:
    """Refuse a scheduler, a ControlNet and LoRAs that do not fit a model, as far as that shows before it is loaded.

    Args:
        name: As for :func:`find_model`.
        choice: What is made of it.

    Raises:
        ConfigurationError: Something does not fit.
        UnsupportedError: Its pipeline takes no LoRA.
    """
    kind = pipeline_class(pipeline_class_of(name, choice))
    if choice.scheduler is not None:
        refuse_scheduler(choice.scheduler, find_model(name, choice).scheduler_config(), kind)
    if choice.controlnet is not None:
        refuse_controlnet(choice.controlnet, _config_of(choice.controlnet), kind)
    refuse_loras(choice.loras, kind)


def load_pipeline(name: str, dtype: str, device: torch.device, choice: PipelineChoice | None = None) -> Any:
    """The diffusers pipeline, whichever it is, on a device.

    Args:
        name: As for :func:`find_model`.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
        device: From :func:`tokenring_xdit.devices.rank_device`.
        choice: What is made of it; by default what it says itself.

    Raises:
        ConfigurationError: A LoRA does not fit, or there is no such ControlNet.
    """
    choice = choice or PipelineChoice()
    model = find_model(name, choice)
    kind = pipeline_class(pipeline_class_of(name, choice)) if choice.changes_class else None
    parts = {} if choice.controlnet is None else {"controlnet": _controlnet(choice.controlnet, dtype)}
    pipe = model.load(dtype, device, kind, parts)
    choice.put_on(pipe)
    return pipe


def _config_of(controlnet: str) -> dict[str, Any]:
    try:
        return read_model_file(
            controlnet, "config.json", kind="ControlNet", example="InstantX/FLUX.1-dev-Controlnet-Canny", names=()
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"controlnet: {error}") from error


def _controlnet(name: str, dtype: str) -> Any:
    import diffusers

    return from_pretrained(getattr(diffusers, _config_of(name)["_class_name"]), name, torch_dtype(dtype))


def _resolved(name: str) -> str:
    """Folder or hub name as diffusers takes it."""
    return str(MODEL_PATH) if name == EMBEDDED else name
