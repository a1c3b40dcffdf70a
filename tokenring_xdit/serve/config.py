"""What a server serves, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenring_xdit.defaults import LARGEST_SIDE
from tokenring_xdit.errors import ModelUnreachableError, TokenRingError
from tokenring_xdit.pipelines.loading import pipeline_class_of
from tokenring_xdit.pipelines.request import is_video, pipeline_class
from tokenring_xdit.pipelines.run import RunConfig, inspect_model
from tokenring_xdit.pipelines.text_models import is_text_model

__all__ = ["RequestLimits", "ServeConfig", "unserved"]

_OF_RUNS = ("prompt", "prompt_file", "image", "output")

_UNUSED = (*_OF_RUNS, "seed", "frames", "fps")


class ServeConfig(RunConfig):
    """A run's config, of which a server takes the model, the degrees, and defaults for what requests leave out."""

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class; what a run is about comes with each request."""
        return super().mistakes_between({**values, **dict.fromkeys(_OF_RUNS), "prompt": ("a prompt",)})

    @property
    def name(self) -> str:
        """What clients call the model: of a folder its last name, as its place is nobody's business."""
        return Path(self.model).resolve().name if Path(self.model).is_dir() else self.model

    @property
    def ignored(self) -> list[str]:
        """Keys that were said and are for runs only."""
        return [key for key in _UNUSED if key in self.model_fields_set]


def unserved(config: ServeConfig) -> list[str]:
    """Why a model is not served, or refuses what requests leave out, as far as that is known before it loads."""
    if is_text_model(config.model):
        return [f"model: '{config.model}' is a language model, and pictures are what is served: use 'ask', or Engine"]
    try:
        pipeline = pipeline_class(pipeline_class_of(config.model))
    except ModelUnreachableError:
        raise
    except TokenRingError as error:
        return [f"model: {error}"]
    if is_video(pipeline):
        return [f"model: {pipeline.__name__} makes videos, and pictures are what is served: use 'run', or Engine"]
    return inspect_model(config.model_copy(update=dict.fromkeys(("image", "output"))))  # as each request will be


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for.

    Attributes:
        waiting: Requests that may wait for the engine.
        pixels: Of a picture: width times height.
        steps: Denoising steps.
        body: Bytes of a request; the longest prompts are less, however they are written.
    """

    waiting: int = 16
    pixels: int = LARGEST_SIDE**2
    steps: int = 500
    body: int = 2**20
