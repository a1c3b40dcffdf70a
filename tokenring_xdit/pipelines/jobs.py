"""What the ranks of one command are asked to do, and what a comparison finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.sizes import PictureSize

__all__ = ["SINGLE", "Candidate", "CompareJob", "Drawn", "Found", "GenerateJob", "Job", "Picture", "RunJob"]

SINGLE = "one rank"
"""What a comparison calls the unmodified pipeline."""


@dataclass(frozen=True)
class Picture:
    """What to draw.

    Attributes:
        model: Folder or hub name of the model.
        prompt: The prompt.
        size: Size in pixels.
        steps: Denoising steps.
        seed: Seed of the noise.
        guidance: Guidance scale, for models distilled with one.
        text_tokens: Text tokens that the prompt is padded to.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """

    model: str
    prompt: str
    size: PictureSize
    steps: int
    seed: int
    guidance: float
    text_tokens: int
    dtype: str


@dataclass(frozen=True)
class GenerateJob:
    """Draw one picture.

    Attributes:
        picture: What to draw.
        degrees: How the ranks share the work.
        output: Where the PNG goes.
    """

    picture: Picture
    degrees: ParallelDims
    output: str


@dataclass(frozen=True)
class Candidate:
    """One way to divide the ranks, or why it is refused.

    Attributes:
        name: Name for people.
        degrees: How the ranks share the work.
        refusal: Why it does not run, if it does not.
    """

    name: str
    degrees: ParallelDims
    refusal: str | None = None


@dataclass(frozen=True)
class CompareJob:
    """Draw the same picture on one rank and with each candidate.

    Attributes:
        picture: What to draw.
        candidates: All of as many ranks; those that are refused are only reported.
        rounds: Timed rounds, in which the candidates take turns.
    """

    picture: Picture
    candidates: tuple[Candidate, ...]
    rounds: int


@dataclass(frozen=True)
class Drawn:
    """A decoded picture.

    Attributes:
        pixels: ``[H, W, 3]`` in ``[0, 1]``, before they are rounded to eight bits.
    """

    pixels: NDArray[np.float32]

    @property
    def picture(self) -> Image.Image:
        """In eight bits."""
        return Image.fromarray((self.pixels * 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Found:
    """What a comparison found of a strategy.

    Attributes:
        figures: By their names in the JSON: ``step_ms`` and, except for the reference, ``bytes_sent_per_rank`` and
            ``max_relative_difference``.
        drawn: What it drew.
        difference: Absolute difference to the reference's pixels; ``None`` for the reference.
    """

    figures: dict[str, Any]
    drawn: Drawn
    difference: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RunJob:
    """Draw what a config says.

    Attributes:
        config: The config.
    """

    config: RunConfig


Job = GenerateJob | CompareJob | RunJob
