"""What one run is: model, prompts, degrees and output, as a YAML file says it; read without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tokenring_xdit.defaults import DEFAULT_SCHEDULE, LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.messages import shown
from tokenring_xdit.parallel import GRAPHS_NEED_RANKS, ParallelDims
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.run_prompts import Count, PromptConfig
from tokenring_xdit.pipelines.run_values import Backend, Files, Loras, Size, files_of, is_url

__all__ = ["FILE_KEYS", "NOT_OPTIONS", "SUFFIXES", "RunConfig"]


SUFFIXES = (".png", ".mp4")
"""Of what is written: of pictures, and of videos."""

_PICTURE_KEYS = ("control_image", "control_mask", "image", "image_reference", "last_image", "mask_image")

_VIDEO_KEYS = ("mask", "video")

FILE_KEYS = (*_PICTURE_KEYS, *_VIDEO_KEYS)
"""Keys that name files of pictures and videos."""

_OTHER_NAMES = {
    "width": "size",
    "height": "size",
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
}

NOT_OPTIONS = {
    **{name: f"say it with the key '{name}'" for name in (*FILE_KEYS, "prompt", "negative_prompt", "strength")},
    **{name: f"say it with the key '{key}'" for name, key in {**_OTHER_NAMES, "generator": "seed"}.items()},
    "num_images_per_prompt": "list the prompt several times instead",
    "num_videos_per_prompt": "list the prompt several times instead",
    "output_type": "a run writes PNG or MP4",
}
"""Arguments of pipelines that are no options of a config, and what to do instead."""


class RunConfig(PromptConfig):
    """One run. Every key but ``model`` has a default; ``null`` leaves a value to the pipeline."""

    other_names: ClassVar[Mapping[str, str]] = _OTHER_NAMES

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
            if option in NOT_OPTIONS:
                mistakes.append(f"options: {option} cannot be set here: {NOT_OPTIONS[option]}")
        output = values.get("output")
        if output is not None and Path(output).suffix.lower() not in SUFFIXES:
            mistakes.append(f"output: '{output}' does not end in {' or '.join(SUFFIXES)}")
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

    def files_named(self) -> list[str]:
        """All files and URLs of pictures and videos."""
        return [file for key in FILE_KEYS for file in getattr(self, key) or ()]

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
