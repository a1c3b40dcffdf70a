"""What the ranks of one command are asked to do, as data that travels to them as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenring_xdit.integrations.xfuser import Degrees
from tokenring_xdit.pipelines.model import PictureSize
from tokenring_xdit.pipelines.run import RunConfig

__all__ = ["CompareJob", "GenerateJob", "Job", "Picture", "RunJob", "Strategy", "load_job", "save_job"]


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
    degrees: Degrees
    output: str


@dataclass(frozen=True)
class Strategy:
    """One way to share the work, or why it is refused.

    Attributes:
        name: Name for people.
        degrees: How the ranks share the work.
        refusal: Why it does not run, if it does not.
    """

    name: str
    degrees: Degrees
    refusal: str | None = None


@dataclass(frozen=True)
class CompareJob:
    """Draw the same picture on one rank and with each strategy.

    Attributes:
        picture: What to draw.
        strategies: All of as many ranks; those that are refused are only reported.
        rounds: Timed rounds, in which the strategies take turns.
        output: Where the contact sheet goes; the JSON goes beside it.
    """

    picture: Picture
    strategies: tuple[Strategy, ...]
    rounds: int
    output: str


@dataclass(frozen=True)
class RunJob:
    """Draw what a config says.

    Attributes:
        config: The config.
    """

    config: RunConfig


Job = GenerateJob | CompareJob | RunJob


def save_job(job: Job, path: Path) -> None:
    """Write a job for the ranks to read."""
    content = {"config": job.config.model_dump(mode="json")} if isinstance(job, RunJob) else asdict(job)
    path.write_text(json.dumps({"job": type(job).__name__, **content}, indent=2))


def load_job(path: Path) -> Job:
    """Read a job back."""
    data: dict[str, Any] = json.loads(path.read_text())
    kind = data.pop("job")
    if kind == "RunJob":
        return RunJob(RunConfig.model_validate(data["config"]))
    data["picture"] = Picture(**{**data["picture"], "size": PictureSize(**data["picture"]["size"])})
    if kind == "GenerateJob":
        data["degrees"] = Degrees(**data["degrees"])
        return GenerateJob(**data)
    data["strategies"] = tuple(Strategy(**{**s, "degrees": Degrees(**s["degrees"])}) for s in data["strategies"])
    return CompareJob(**data)
