"""Models by the names that users give them: what can be known of one before it is loaded, and loading it on a rank."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.models import pipelines
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.flux import FluxModel
from tokenring_xdit.pipelines.model import EMBEDDED, Model, read_model_file
from tokenring_xdit.pipelines.random_flux import RandomFlux, is_random

__all__ = ["find_model", "load_pipeline", "pipeline_class_of"]

_FLUX = "FluxPipeline"


def find_model(name: str) -> Model:
    """What a model says of itself; of one that is to be loaded the configuration files are read, and nothing else.

    Args:
        name: Folder or hub name of a diffusers pipeline, ``embedded``, or ``random-flux:...``.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared with the single process.
    """
    if is_random(name):
        return RandomFlux.parse(name).model()
    return (FluxModel if pipeline_class_of(name) == _FLUX else Model).find(_resolved(name))


def pipeline_class_of(name: str) -> str:
    """The class of a model's pipeline, read from its index; nothing else of it is read.

    Args:
        name: As for :func:`find_model`.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared with the single process.
    """
    if is_random(name):
        return _FLUX
    found = str(read_model_file(_resolved(name), "model_index.json").get("_class_name"))
    if found not in pipelines():
        raise UnsupportedError(
            f"'{name}' is a {found}, which has not been compared with the single process yet. "
            f"Use diffusers alone, on one rank, or one of: {', '.join(pipelines())}"
        )
    return found


def load_pipeline(name: str, dtype: str, device: torch.device) -> Any:
    """The diffusers pipeline, whichever it is, on a device.

    Args:
        name: As for :func:`find_model`.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
        device: From :func:`tokenring_xdit.devices.rank_device`.
    """
    return find_model(name).load(dtype, device)


def _resolved(name: str) -> str:
    """Folder or hub name as diffusers takes it."""
    return str(MODEL_PATH) if name == EMBEDDED else name
