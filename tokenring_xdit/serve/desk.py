"""Makes orders of what clients say, and refuses what cannot be served, before anything waits."""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of
from tokenring_xdit.pipelines.request import (
    DRAWN_SEEDS,
    LARGEST_SEED,
    Request,
    defaults_of,
    pipeline_class,
)
from tokenring_xdit.serve.config import RequestLimits, ServeConfig, TextServeConfig, films
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.jobs import PictureOrder
from tokenring_xdit.serve.keeper import Keeper
from tokenring_xdit.serve.schema import GenerationBody, PromptBody, VideoBody
from tokenring_xdit.sizes import PictureSize

__all__ = ["Desk", "PictureDesk", "first_of"]

_AUTO = "auto"


_Config = TypeVar("_Config", ServeConfig, TextServeConfig)


class Desk(ABC, Generic[_Config]):
    """Where requests are checked.

    Args:
        config: What is served.
        limits: What a request may ask for.
        keeper: Owns the engine.
    """

    def __init__(self, config: _Config, limits: RequestLimits, keeper: Keeper) -> None:
        self.config: _Config = config
        self.limits, self.keeper = limits, keeper

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What ``/v1/models`` says of the model, beside OpenAI's fields."""

    def refuse_other(self, model: str | None) -> None:
        """Refuse what is for another model.

        Raises:
            RefusedError: It is.
        """
        if model is not None and model != self.config.name:
            message = f"model: there is no {shown(model)} here, only '{self.config.name}'"
            raise RefusedError(message, "model", status=404, code="model_not_found")

    def engine(self) -> Engine:
        """The engine, where it is ready.

        Raises:
            UnavailableError: It is not.
        """
        self.keeper.refuse_unready()
        assert self.keeper.engine is not None
        return self.keeper.engine


class PictureDesk(Desk[ServeConfig]):
    """Where requests for pictures and videos are checked."""

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """What is taken where a request says nothing; ``None`` for what the pipeline works out."""
        config = self.config
        model = find_model(config.model).complete(Request(prompt="a prompt"))
        known = defaults_of(pipeline_class(pipeline_class_of(config.model)))
        values: dict[str, Any] = {
            name: first_of(getattr(config, name, None), getattr(model, name), known[name])
            for name in ("width", "height", "frames", "steps", "guidance", "negative_prompt")
            if name in known
        }
        if config.size is not None:
            values |= {"width": config.size.width, "height": config.size.height}
        return values

    def described(self) -> dict[str, Any]:
        """As in the base class."""
        defaults = dict(self.defaults)
        width, height = defaults.pop("width", None), defaults.pop("height", None)
        size = str(PictureSize(width, height)) if width and height else _AUTO
        most: dict[str, Any] = {"pixels": self.limits.pixels, "steps": self.limits.steps}
        most["side"] = self.config.largest_side
        video = films(self.config)
        if video:
            defaults["fps"] = self.config.fps
            most["frames"] = self.limits.frames
        dims = self.config.degrees
        return {
            "kind": "video" if video else "image",
            "defaults": {"size": size, **defaults},
            "limits": {**most, "n": 1 if video else 10, "body_bytes": self.limits.body, "waiting": self.limits.waiting},
            "ranks": {"tokenring": dims.tokenring, "ulysses": dims.ulysses, "schedule": dims.schedule},
        }

    def picture(self, body: GenerationBody) -> PictureOrder:
        """The order of ``/v1/images/generations``.

        Raises:
            TokenRingError: It is refused.
        """
        count, previews = body.n or 1, body.partial_images or 0
        if body.response_format == "url":
            raise RefusedError(
                "response_format: pictures are not kept here, so there is no url: use b64_json", "response_format"
            )
        if body.output_compression is not None and (body.output_format or "png") == "png":
            raise RefusedError(
                "output_compression: is for jpeg and webp, and output_format is png", "output_compression"
            )
        if previews and not body.stream:
            raise RefusedError("partial_images: needs a stream: say stream=true as well", "partial_images")
        if body.stream and count > 1:
            raise RefusedError(f"n: {count} pictures cannot be streamed: ask for one, or leave stream out", "n")
        return self._order("image", body, count, previews)

    def video(self, body: VideoBody, *, stored: bool) -> PictureOrder:
        """The order of ``/v1/videos``.

        Args:
            body: What is asked for.
            stored: Whether it is kept to be fetched, instead of being handed out at once.

        Raises:
            TokenRingError: It is refused.
        """
        if body.input_reference is not None:
            raise RefusedError(
                f"input_reference: '{self.config.name}' starts from no picture: leave it out", "input_reference"
            )
        if body.seconds is not None and body.frames is not None:
            raise RefusedError("seconds: frames are given as well: leave one of them out", "seconds")
        fps = body.fps or self.config.fps
        frames = self.config.frames if body.frames is None else body.frames
        if body.seconds is not None:
            frames = max(1, round(min(body.seconds * fps, self.limits.frames + 1)))
        return replace(self._order("video", body, 1, 0, frames=frames, fps=fps), stored=stored)

    def _order(
        self, kind: str, body: PromptBody, count: int, previews: int, *, frames: int | None = None, fps: int = 1
    ) -> PictureOrder:
        config = self.config
        self.refuse_other(body.model)
        size = self._size(body.size)
        arguments: dict[str, Any] = {
            "width": size.width if size else None,
            "height": size.height if size else None,
            "frames": frames,
            "steps": first_of(body.steps, config.steps),
            "guidance": first_of(body.guidance, config.guidance),
            "negative_prompt": first_of(body.negative_prompt, config.negative_prompt),
            **config.options,
        }
        seed = secrets.randbelow(DRAWN_SEEDS) if body.seed is None else body.seed
        if seed + count - 1 > LARGEST_SEED:
            raise RefusedError(f"seed: {seed} leaves no seeds for {count} pictures", "seed")
        engine = self.engine()
        together = min(count, config.batch_size)
        prompt = body.prompt if together == 1 else [body.prompt] * together
        request = engine.check(prompt, seed=seed, **arguments)
        values = {name: first_of(getattr(request, name), default) for name, default in self.defaults.items()}
        self._refuse_beyond(values)
        width, height, frames = (values.get(name) or 0 for name in ("width", "height", "frames"))
        return PictureOrder(
            kind=kind,
            prompt=body.prompt,
            seed=seed,
            count=count,
            together=together,
            steps=values.get("steps") or 1,
            size=str(PictureSize(width, height)) if width and height else _AUTO,
            pixels=width * height * (frames or 1),
            frames=frames or 1,
            fps=fps,
            previews=previews,
            arguments={name: value for name, value in arguments.items() if value is not None},
        )

    def _size(self, said: str | None) -> PictureSize | None:
        if said is None or said == _AUTO:
            return self.config.size
        if "x" not in said.lower():
            raise RefusedError(f"size: {shown(said)} is neither WIDTHxHEIGHT, such as 1024x1024, nor 'auto'", "size")
        try:
            return PictureSize.parse(said)
        except ConfigurationError as error:
            raise RefusedError(str(error), "size") from error

    def _refuse_beyond(self, values: dict[str, Any]) -> None:
        pixels = (values.get("width") or 1) * (values.get("height") or 1)
        most = self.limits
        if pixels > most.pixels:
            raise RefusedError(
                f"size: {pixels} pixels are asked for, and this server draws at most {most.pixels}", "size"
            )
        if (values.get("frames") or 1) > most.frames:
            raise RefusedError(
                f"frames: {values['frames']} are more than the {most.frames} that this server makes", "frames"
            )
        if (values.get("steps") or 1) > most.steps:
            raise RefusedError(
                f"steps: {values['steps']} are more than the {most.steps} that this server makes", "steps"
            )


def first_of(*values: Any) -> Any:
    """The first value that is one; ``None`` where none is."""
    return next((value for value in values if value is not None), None)
