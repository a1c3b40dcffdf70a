"""Any diffusers pipeline by name: what can be known of it before it is loaded, and loading it on a rank."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.models import pipelines
from tokenring_xdit.hosts.refusals import heads_of, refuse_ulysses
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.model import EMBEDDED, read_model_file

__all__ = [
    "load_pipeline",
    "pipeline_class_of",
    "refuse_degrees",
    "resolve_model",
]


def resolve_model(name: str | None) -> str:
    """Folder or hub name as diffusers takes it; ``None`` and ``embedded`` are the model of this package."""
    return str(MODEL_PATH) if name in {None, EMBEDDED} else str(name)


def pipeline_class_of(model: str) -> str:
    """The class of a pipeline, read from its index; nothing else is loaded.

    Args:
        model: Folder or hub name.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared with the single process.
    """
    name = str(read_model_file(model, "model_index.json").get("_class_name"))
    if name not in pipelines():
        raise UnsupportedError(
            f"'{model}' is a {name}, which has not been compared with the single process yet. "
            f"Use diffusers alone, on one rank, or one of: {', '.join(pipelines())}"
        )
    return name


def refuse_degrees(model: str, degrees: ParallelDims) -> None:
    """Refuse degrees that do not fit a model, as far as its configuration tells; nothing else is loaded.

    Args:
        model: Folder or hub name.
        degrees: How the ranks are to share the work.

    Raises:
        UnsupportedError: They do not.
    """
    transformer = read_model_file(model, "transformer/config.json")
    refuse_ulysses(degrees.ulysses, heads_of(transformer))


def load_pipeline(model: str, dtype: str, device: torch.device) -> Any:
    """The diffusers pipeline, whichever it is, on a device.

    Args:
        model: Folder or hub name.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
        device: From :func:`tokenring_xdit.devices.rank_device`.
    """
    from diffusers import DiffusionPipeline

    from tokenring_xdit.compat.diffusers import from_pretrained

    return from_pretrained(DiffusionPipeline, model, torch_dtype(dtype)).to(device)
