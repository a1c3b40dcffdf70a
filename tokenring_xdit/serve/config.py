"""What a server serves, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tokenring_xdit.amounts import parse_bytes
from tokenring_xdit.defaults import LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError
from tokenring_xdit.pipelines.inspection import inspect_text_model
from tokenring_xdit.pipelines.request import image_keyword, is_video, needs_picture
from tokenring_xdit.pipelines.run import FILE_KEYS, RunConfig
from tokenring_xdit.pipelines.run_model import inspect_model, pipeline_of
from tokenring_xdit.pipelines.run_prompts import PromptConfig
from tokenring_xdit.pipelines.run_values import Size
from tokenring_xdit.pipelines.signatures import needed_options, takes
from tokenring_xdit.pipelines.text_models import is_text_model
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.sizes import PictureSize

__all__ = [
    "AnyServeConfig",
    "RequestLimits",
    "ServeConfig",
    "TextServeConfig",
    "films",
    "mask_keyword",
    "serve_schema",
    "unserved",
]

_OF_RUNS = ("prompt", "prompt_file", *FILE_KEYS, "context", "output")

_UNUSED = (*_OF_RUNS, "seed")


def _for_requests(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a config, with nothing in them of what comes with each request."""
    return {**values, **dict.fromkeys(_OF_RUNS), "prompt": ("a prompt",)}


def _ray() -> Any:
    return Field(
        None,
        min_length=1,
        description="'auto', or HOST:PORT of the head of the Ray cluster on whose nodes the ranks are; this machine by "
        "default",
    )


def _name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model


def _ignored(config: PromptConfig) -> list[str]:
    return [key for key in _UNUSED if key in config.model_fields_set]


def _memory(value: Any) -> Any:
    try:
        return parse_bytes(value) if isinstance(value, str) else value
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


Memory = Annotated[int, Field(gt=0), BeforeValidator(_memory)]


class ServeConfig(RunConfig):
    """A run's config, of which a server takes the model, the degrees, and defaults for what requests leave out."""

    memory_per_rank: Memory | None = Field(
        None,
        description="memory that a rank may hold, its model included, such as 80GiB; requests that will need more are "
        "refused. By default what its GPU has, or its share of this machine's",
    )
    warm_up: Annotated[tuple[Size, ...], BeforeValidator(_several)] = Field(
        (), description="sizes that are made twice before the server is ready, to learn what they take"
    )
    ray: str | None = _ray()

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class; what a run is about comes with each request."""
        return super().mistakes_between(_for_requests(values))

    @property
    def name(self) -> str:
        """What clients call the model: of a folder its last name, as its place is nobody's business."""
        return _name(self.model)

    @property
    def ignored(self) -> list[str]:
        """Keys that were said and are for runs only."""
        return _ignored(self)


class TextServeConfig(TextRunConfig):
    """The same of a run of a language model."""

    task: Literal["text"] = Field("text", description="'text': what is served is a language model")
    ray: str | None = _ray()

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As of pictures."""
        return super().mistakes_between(_for_requests(values))

    @property
    def name(self) -> str:
        """As of pictures."""
        return _name(self.model)

    @property
    def ignored(self) -> list[str]:
        """As of pictures."""
        return _ignored(self)


AnyServeConfig = ServeConfig | TextServeConfig


def serve_schema(values: Mapping[str, Any]) -> type[ServeConfig] | type[TextServeConfig]:
    """What may stand in a config: its ``task`` says that, or else its model.

    Args:
        values: What is said.
    """
    said = values.get("task")
    if said is None:
        model = values.get("model")
        return TextServeConfig if isinstance(model, str) and is_text_model(model) else ServeConfig
    return TextServeConfig if said == "text" else ServeConfig


def films(config: ServeConfig) -> bool:
    """Whether a model makes videos."""
    return is_video(pipeline_of(config))


def unserved(config: AnyServeConfig) -> list[str]:
    """Why a model is not served, or refuses what requests leave out, as far as that is known before it loads."""
    if isinstance(config, TextServeConfig):
        return inspect_text_model(config)
    try:
        pipeline = pipeline_of(config)
    except ModelUnreachableError:
        raise
    except TokenRingError:
        return inspect_model(config)  # which says what to use instead
    if needs_picture(pipeline) and is_video(pipeline):
        return [f"model: {pipeline.__name__} starts from a picture, and requests bring none here: use 'run', or Engine"]
    brought = {image_keyword(pipeline), mask_keyword(pipeline)}
    for name in sorted(set(needed_options(pipeline)) - brought):
        return [f"model: {pipeline.__name__} needs {name}, which requests do not bring here: use 'run', or Engine"]
    if needs_picture(pipeline) and config.warm_up:
        return [f"warm_up: {pipeline.__name__} starts from a picture, and there is none yet: leave it out"]
    sizes: list[PictureSize | None] = [config.size, *config.warm_up]
    left_out = dict.fromkeys((*FILE_KEYS, "output"))
    copies = [config.model_copy(update={**left_out, "size": size}) for size in sizes]  # as each request will be
    needed = needed_options(pipeline)
    return list(dict.fromkeys(mistake for copy in copies for mistake in inspect_model(copy, brought=needed)))


def mask_keyword(pipeline: type) -> str | None:
    """What a pipeline calls the mask of the picture that it starts from; ``None`` where it takes none."""
    return next((name for name in ("mask_image", "control_mask") if takes(pipeline, name)), None)


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for.

    Attributes:
        waiting: Requests that may wait for the engine.
        pixels: Pixels of a picture, width times height; of all pictures together that a request brings.
        frames: Frames of a video.
        steps: Denoising steps.
        tokens: Tokens of a conversation and its answer together; ``None`` for what the model was made to read.
        stored: Bytes of videos that are kept; the oldest ones make room.
        body: Bytes of a request; the longest prompts are less, however they are written.
        upload: Bytes of a request that brings pictures.
    """

    waiting: int = 16
    pixels: int = LARGEST_SIDE**2
    frames: int = 500
    steps: int = 500
    tokens: int | None = None
    stored: int = 2**30
    body: int = 2**20
    upload: int = 2**25
