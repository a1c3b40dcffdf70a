"""What one run is: model, prompts, degrees and output, as a YAML file says it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tokenring_xdit.defaults import DEFAULT_SCHEDULE, LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError, UnsupportedError
from tokenring_xdit.hosts.calls import GRAPHS_NEED_RANKS
from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.hosts.parallelize import refuse_engine_host
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.messages import shown
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of, refuse_choice
from tokenring_xdit.pipelines.picture_files import STAND_IN, is_url, read_files
from tokenring_xdit.pipelines.pictures import VIDEOS
from tokenring_xdit.pipelines.request import (
    Request,
    image_keyword,
    is_video,
    missing_for_videos,
    mistakes,
    pipeline_class,
)
from tokenring_xdit.pipelines.run_prompts import Count, PromptConfig, numbered
from tokenring_xdit.pipelines.run_values import Backend, Files, Loras, Size, files_of
from tokenring_xdit.pipelines.signatures import takes
from tokenring_xdit.pipelines.text_models import is_text_model

__all__ = ["FILE_KEYS", "RunConfig", "inspect_model"]


_SUFFIXES = (".png", ".mp4")

_PICTURE_KEYS = ("control_image", "control_mask", "image", "image_reference", "last_image", "mask_image")

_VIDEO_KEYS = ("mask", "video")

FILE_KEYS = (*_PICTURE_KEYS, *_VIDEO_KEYS)
"""Keys that name files of pictures and videos."""

_NOT_OPTIONS = {
    **{name: f"say it with the key '{name}'" for name in (*FILE_KEYS, "strength")},
    "num_images_per_prompt": "list the prompt several times instead",
    "num_videos_per_prompt": "list the prompt several times instead",
    "output_type": "a run writes PNG or MP4",
}


class RunConfig(PromptConfig):
    """One run. Every key but ``model`` has a default; ``null`` leaves a value to the pipeline."""

    other_names: ClassVar[Mapping[str, str]] = {
        "width": "size",
        "height": "size",
        "num_frames": "frames",
        "num_inference_steps": "steps",
        "guidance_scale": "guidance",
    }

    task: Literal[
        "picture",
        "text-to-image",
        "image-to-image",
        "inpainting",
        "text-to-video",
        "image-to-video",
        "video-to-video",
    ] = Field(
        "picture",
        description="'picture', for videos as well: what the model itself is for; or what AutoPipeline makes of "
        "it: 'text-to-image', 'image-to-image', 'inpainting', the same for videos; or 'text'",
    )
    model: str = Field(
        min_length=1, description="folder or hub name of a diffusers pipeline, 'embedded', or 'random-flux:...'"
    )
    negative_prompt: str | None = Field(None, description="what the picture must not show, for models that take it")
    image: Files | None = Field(
        None, description="file or URL of the picture to start from, for models that take one, or a list of them"
    )
    mask_image: Files | None = Field(None, description="file of the mask, white where the picture is regenerated")
    control_image: Files | None = Field(None, description="file of the control picture")
    control_mask: Files | None = Field(None, description="file of the mask that a ControlNet for inpainting sees")
    image_reference: Files | None = Field(None, description="file of a reference picture, for inpainting")
    last_image: Files | None = Field(None, description="file of a video's last frame")
    video: Files | None = Field(
        None, description="file of the video to start from, or a list of the files of its frames"
    )
    mask: Files | None = Field(None, description="the same of its mask, white where the video is regenerated")
    controlnet: str | None = Field(None, min_length=1, description="folder or hub name of a ControlNet")
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how far a picture is regenerated, for models that take it",
    )
    scheduler: str | None = Field(
        None, min_length=1, description="scheduler class of diffusers, instead of the model's own"
    )
    loras: Loras = Field((), description="LoRAs: files, folders or hub names, or mappings of path and scale")
    size: Size | None = Field(None, description="pixels, or WIDTHxHEIGHT")
    frames: Count | None = Field(None, description="number of frames, for video models")
    fps: Count = Field(16, description="frames a second of the MP4, for video models")
    steps: Count | None = Field(None, description="denoising steps")
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False, description="guidance scale")
    largest_side: Count = Field(LARGEST_SIDE, description="most pixels of width and height, against typing errors")
    batch_size: Count = Field(1, description="prompts generated together")
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
        for key in FILE_KEYS:
            for file in files_of(values.get(key)) or ():
                if is_url(file) and key in _VIDEO_KEYS:
                    mistakes.append(f"{key}: {shown(file)} is a URL, and a file is wanted: download it first")
                elif not is_url(file) and not Path(file).is_file():
                    mistakes.append(f"{key}: there is no file {shown(file)}")
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
        """As many prompts as are generated together, to check a request with that may have none yet."""
        with contextlib.suppress(ConfigurationError):
            return self.prompts()[: self.batch_size]
        return ("a prompt",)

    @property
    def choice(self) -> PipelineChoice:
        """What is made of the model."""
        task = None if self.task == "picture" else self.task
        return PipelineChoice(task, self.scheduler, self.loras, self.controlnet)

    @property
    def pipeline(self) -> type:
        """The class of its pipeline.

        Raises:
            TokenRingError: There is no such model, or it was not compared.
        """
        return pipeline_class(pipeline_class_of(self.model, self.choice))

    def files(self, pipeline: type) -> dict[str, tuple[str, ...]]:
        """The files of pictures, by the arguments of a pipeline that they are for.

        Args:
            pipeline: The pipeline's class.

        Raises:
            ConfigurationError: Two keys are for one argument.
        """
        found: dict[str, tuple[str, ...]] = {}
        for key in FILE_KEYS:
            files = getattr(self, key)
            controls = key == "image" and image_keyword(pipeline) != key and not takes(pipeline, key)
            name = image_keyword(pipeline) if controls else key
            if files is not None and name in found:
                raise ConfigurationError(f"{key}: is called '{name}' by {pipeline.__name__}, which is said as well")
            if files is not None:
                found[name] = files
        return found

    def request(
        self, first: int, prompts: tuple[str, ...], pipeline: type, pictures: Mapping[str, Sequence[Any]] | None = None
    ) -> Request:
        """What to ask the pipeline for.

        Args:
            first: Number of the first prompt among all.
            prompts: Those that are generated together.
            pipeline: The pipeline's class.
            pictures: What was read of :meth:`files`, for all prompts.
        """
        strength = {} if self.strength is None else {"strength": self.strength}
        whole = pipeline_named(pipeline.__name__).references
        chosen = {
            name: _part(name, each, slice(first, first + len(prompts)), whole)
            for name, each in (pictures or {}).items()
        }
        request = Request(
            prompt=prompts if len(prompts) > 1 else prompts[0],
            negative_prompt=self.negative_prompt,
            width=self.size.width if self.size else None,
            height=self.size.height if self.size else None,
            frames=self.frames,
            steps=self.steps,
            seed=self.seed + first,
            guidance=self.guidance,
            options={**self.options, **strength, **chosen},
            largest_side=self.largest_side,
        )
        return find_model(self.model, self.choice).complete(request)

    def outputs(self) -> list[Path]:
        """Where the results go, one for each prompt.

        Raises:
            TokenRingError: There is no such model, or it was not compared.
        """
        video = is_video(self.pipeline)
        path = Path(self.output or f"outputs/{Path(self.model).name}{_SUFFIXES[video]}")
        return numbered(path, len(self.prompts()))


def inspect_model(config: RunConfig, brought: Collection[str] = ()) -> list[str]:
    """Mistakes that show once the model's own description is read; nothing else of it is loaded.

    Args:
        config: The run.
        brought: Arguments that are pictures and come later.

    Raises:
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    try:
        pipeline = config.pipeline
        model = find_model(config.model, config.choice)
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
    for check in (partial(refuse_choice, config.model, config.choice), partial(_refuse_host, config, pipeline)):
        try:
            check()
        except ModelUnreachableError:
            raise
        except TokenRingError as error:
            found.append(str(error))
    pictures, wrong = _pictures(config, pipeline)
    found += wrong
    pictures |= {name: [STAND_IN] for name in brought}
    request = config.request(0, config.some_prompts(), pipeline, pictures)
    unfit = [] if wrong else mistakes(pipeline, request)
    if not unfit and not found:
        try:
            model.check_request(degrees, request)
        except TokenRingError as error:
            unfit.append(str(error))
    found += unfit
    video = is_video(pipeline)
    for package in missing_for_videos()[:1] if video else ():
        found.append(
            f"model: {pipeline.__name__} makes videos, and {package} is missing: pip install 'tokenring-xdit[video]'"
        )
    suffix = Path(config.output).suffix.lower() if config.output is not None else _SUFFIXES[video]
    if suffix in _SUFFIXES and suffix != _SUFFIXES[video]:
        kind = "a video" if video else "a picture"
        found.append(f"output: '{config.output}', but {pipeline.__name__} makes {kind}: use {_SUFFIXES[video]}")
    return found


def _part(name: str, each: Sequence[Any], prompts: slice, whole: bool) -> Any:
    """What of the pictures of an option goes with some prompts."""
    if name in VIDEOS:
        return list(each)
    return each[0] if len(each) == 1 else each if whole else each[prompts]


def _refuse_host(config: RunConfig, pipeline: type) -> None:
    refuse_engine_host(
        pipeline.__name__,
        config.ulysses_degree * config.tokenring_degree,
        ulysses_degree=config.ulysses_degree,
        attention_backend=config.attention_backend,
        cuda_graphs=config.cuda_graphs,
    )


def _pictures(config: RunConfig, pipeline: type) -> tuple[dict[str, Any], list[str]]:
    """The pictures of a config as far as they are here, and what is wrong with them."""
    try:
        files = config.files(pipeline)
    except ConfigurationError as error:
        return {}, [str(error)]
    none = [name for name in files if not takes(pipeline, name)]
    if none:
        return {}, [f"{name}: {files[name][0]} was given, and {pipeline.__name__} takes none" for name in none]
    prompts = 0
    with contextlib.suppress(ConfigurationError):
        prompts = len(config.prompts())
    references = pipeline_named(pipeline.__name__).references
    wrong = [
        f"{name}: has {len(each)} files for {prompts} prompts: name one for all, or one for each"
        for name, each in files.items()
        if prompts and not references and name not in VIDEOS and len(each) not in {1, prompts}
    ]
    try:
        return ({}, wrong) if wrong else (read_files(files, fetch=False), [])
    except ConfigurationError as error:
        return {}, [str(error)]
