"""A run with its model at hand, whichever kind it is: what does not fit, and which files it writes."""

from __future__ import annotations

from pathlib import Path

from tokenring_xdit.errors import ModelUnreachableError, TokenRingError
from tokenring_xdit.pipelines.run_model import inspect_model, pictures_written
from tokenring_xdit.pipelines.tasks import AnyRun
from tokenring_xdit.pipelines.text_models import refuse_model
from tokenring_xdit.pipelines.text_run import TextRunConfig

__all__ = ["inspect_run", "inspect_text_model", "outputs_of"]


def inspect_run(config: AnyRun) -> list[str]:
    """Mistakes that show once the model's own description is read; nothing else of it is loaded.

    Raises:
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    return inspect_text_model(config) if isinstance(config, TextRunConfig) else inspect_model(config)


def inspect_text_model(config: TextRunConfig) -> list[str]:
    """As :func:`inspect_run`, of a language model."""
    try:
        refuse_model(config.model)
    except ModelUnreachableError:
        raise
    except TokenRingError as error:
        return [f"model: {error}"]
    return []


def outputs_of(config: AnyRun) -> list[Path]:
    """Where the results go.

    Raises:
        TokenRingError: There is no such model, or it was not compared.
    """
    return config.outputs() if isinstance(config, TextRunConfig) else pictures_written(config)
