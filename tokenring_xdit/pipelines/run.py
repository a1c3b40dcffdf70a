"""What one run is: model, prompts, degrees and output, as a YAML file says it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from tokenring_xdit.defaults import DEFAULT_SCHEDULE, LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError, UnsupportedError
from tokenring_xdit.hosts.calls import GRAPHS_NEED_RANKS
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of
from tokenring_xdit.pipelines.request import (
    Request,
    image_keyword,
    is_video,
    mistakes,
    pipeline_class,
    takes_picture,
)
from tokenring_xdit.pipelines.run_prompts import Count, PromptConfig, numbered
from tokenring_xdit.pipelines.text_models import is_text_model
from tokenring_xdit.sizes import PictureSize

__all__ = ["RunConfig", "inspect_model"]


def _size(value: Any) -> Any:
    try:
        return PictureSize.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _backend(value: Any) -> Any:
    try:
        return AttentionBackend.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


_SUFFIXES = (".png", ".mp4")

_NOT_OPTIONS = {
    "image": "name a file with the key 'image'",
    "control_image": "name a file with the key 'image'",
    "num_images_per_prompt": "list the prompt several times instead",
    "num_videos_per_prompt": "list the prompt several times instead",
    "output_type": "a run writes PNG or MP4",
}

# The JSON schemas take what the validators take, in the other spellings too.
Size = Annotated[
    PictureSize,
    BeforeValidator(_size),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^ *0*[1-9][0-9]{0,8}([xX]0*[1-9][0-9]{0,8})? *$"},
                {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            ]
        }
    ),
]
Backend = Annotated[
    AttentionBackend,
    BeforeValidator(_backend),
    WithJsonSchema({"enum": [name for backend in AttentionBackend for name in (backend.value, backend.name)]}),
]


class RunConfig(PromptConfig):
    """One run. Every key but ``model`` has a default; ``null`` leaves a value to the pipeline."""

    other_names: ClassVar[Mapping[str, str]] = {
        "width": "size",
        "height": "size",
        "num_frames": "frames",
        "num_inference_steps": "steps",
        "guidance_scale": "guidance",
    }

    task: Literal["picture"] = Field("picture", description="'picture', for videos as well, or 'text'")
    model: str = Field(
        min_length=1, description="folder or hub name of a diffusers pipeline, 'embedded', or 'random-flux:...'"
    )
    negative_prompt: str | None = Field(None, description="what not to draw, for models that take it")
    image: str | None = Field(None, description="file or URL of the picture to start from, for models that take one")
    size: Size | None = Field(None, description="pixels, or WIDTHxHEIGHT")
    frames: Count | None = Field(None, description="number of frames, for video models")
    fps: Count = Field(16, description="frames a second of the MP4, for video models")
    steps: Count | None = Field(None, description="denoising steps")
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False, description="guidance scale")
    largest_side: Count = Field(
        LARGEST_SIDE, description="pixels that width and height may have; more are taken for a slip of the finger"
    )
    batch_size: Count = Field(1, description="prompts that are drawn together")
    options: dict[str, Any] = Field({}, description="any further arguments of the pipeline's call")
    ulysses_degree: Count = Field(1, description="ranks that Ulysses shards the heads over")
    schedule: str = Field(DEFAULT_SCHEDULE, description="what the TokenRing ranks exchange and when")
    attention_backend: Backend = Field(
        AttentionBackend.AUTO, description="xfuser's kernel for attention on one rank; 'auto' is xfuser's own choice"
    )
    cuda_graphs: bool = Field(
        False, description="capture calls of the transformer as CUDA graphs, and replay them; needs GPUs"
    )
    output: str | None = Field(
        None,
        min_length=1,
        description="PNG or, for video models, MP4, numbered where there are several prompts; "
        "outputs/ and the model's name by default",
    )

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class."""
        mistakes = super().mistakes_between(values)
        image = values.get("image")
        if image is not None and not image.startswith(("http://", "https://")) and not Path(image).is_file():
            mistakes.append(f"image: there is no file '{image}'")
        for option in values.get("options", {}):
            if option in _NOT_OPTIONS:
                mistakes.append(f"options: {option} cannot be set here: {_NOT_OPTIONS[option]}")
        output = values.get("output")
        if output is not None and Path(output).suffix.lower() not in _SUFFIXES:
            mistakes.append(f"output: '{output}' does not end in {' or '.join(_SUFFIXES)}")
        degrees = {key: values.get(f"{key}_degree", 1) for key in ("tokenring", "ulysses")}
        if values.get("cuda_graphs") and degrees == {"tokenring": 1, "ulysses": 1}:
            mistakes.append(f"cuda_graphs: {GRAPHS_NEED_RANKS}")
        try:
            ParallelDims(**degrees, schedule=values.get("schedule", DEFAULT_SCHEDULE))
        except TokenRingError as error:
            mistakes.append(f"schedule: {error}")
        return mistakes

    @property
    def degrees(self) -> ParallelDims:
        """How the ranks share the work."""
        return ParallelDims(ulysses=self.ulysses_degree, tokenring=self.tokenring_degree, schedule=self.schedule)

    def some_prompts(self) -> tuple[str, ...]:
        """As many prompts as are drawn together, to check a request with that may have none yet."""
        with contextlib.suppress(ConfigurationError):
            return self.prompts()[: self.batch_size]
        return ("a prompt",)

    def request(self, first: int, prompts: tuple[str, ...], pipeline: type, image: Any = None) -> Request:
        """What to ask the pipeline for.

        Args:
            first: Number of the first prompt among all.
            prompts: Those that are drawn together.
            pipeline: The pipeline's class.
            image: The picture that was read from :attr:`image`.
        """
        picture = {} if image is None else {image_keyword(pipeline): image}
        request = Request(
            prompt=prompts if len(prompts) > 1 else prompts[0],
            negative_prompt=self.negative_prompt,
            width=self.size.width if self.size else None,
            height=self.size.height if self.size else None,
            frames=self.frames,
            steps=self.steps,
            seed=self.seed + first,
            guidance=self.guidance,
            options=self.options | picture,
            largest_side=self.largest_side,
        )
        return find_model(self.model).complete(request)

    def outputs(self) -> list[Path]:
        """Where the results go, one for each prompt.

        Raises:
            TokenRingError: There is no such model, or it was not compared.
        """
        video = is_video(pipeline_class(pipeline_class_of(self.model)))
        path = Path(self.output or f"outputs/{Path(self.model).name}{_SUFFIXES[video]}")
        return numbered(path, len(self.prompts()))


def inspect_model(config: RunConfig) -> list[str]:
    """Mistakes that show once the model's own description is read; nothing else of it is loaded.

    Raises:
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    try:
        pipeline = pipeline_class(pipeline_class_of(config.model))
        model = find_model(config.model)
    except ModelUnreachableError:
        raise
    except TokenRingError as error:
        hint = "; it is a language model: write task: text" if is_text_model(config.model) else ""
        return [f"model: {error}{hint}"]
    found = []
    degrees = ParallelDims(ulysses=config.ulysses_degree, tokenring=config.tokenring_degree)  # whatever the schedule
    try:
        model.refuse_degrees(degrees)
    except UnsupportedError as error:
        found.append(str(error))
    image = config.image if takes_picture(pipeline) else None
    if image != config.image:
        found.append(f"image: {config.image} was given, and {pipeline.__name__} starts from no picture")
    request = config.request(0, config.some_prompts(), pipeline, image)
    unfit = mistakes(pipeline, request)
    if not unfit and not found:
        try:
            model.check_request(degrees, request)
        except TokenRingError as error:
            unfit.append(str(error))
    found += unfit
    video = is_video(pipeline)
    suffix = Path(config.output).suffix.lower() if config.output is not None else _SUFFIXES[video]
    if suffix in _SUFFIXES and suffix != _SUFFIXES[video]:
        kind = "a video" if video else "a picture"
        found.append(f"output: '{config.output}', but {pipeline.__name__} makes {kind}: use {_SUFFIXES[video]}")
    return found
