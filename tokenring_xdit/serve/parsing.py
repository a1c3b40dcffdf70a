"""Makes orders of what clients say, and refuses what cannot be served, before anything waits."""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tokenring_xdit.amounts import bytes_in_words
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.messages import shown
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.pipelines.picture_options import steps_taken
from tokenring_xdit.pipelines.request import (
    DRAWN_SEEDS,
    image_keyword,
    needs_picture,
    takes_picture,
)
from tokenring_xdit.pipelines.run_model import pipeline_of
from tokenring_xdit.pipelines.signatures import needed_options, parameters_of
from tokenring_xdit.pipelines.values import LARGEST_SEED
from tokenring_xdit.serve.config import RequestLimits, ServeConfig, films, mask_keyword
from tokenring_xdit.serve.engine_owner import EngineOwner
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.foresee import picture_values
from tokenring_xdit.serve.jobs import NO_INPUTS, InputPictures, PictureOrder
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.request_parser import RequestParser, first_of
from tokenring_xdit.serve.schema import EditBody, GenerationBody, PromptBody, VideoBody
from tokenring_xdit.serve.uploads import MOST_PICTURES, Uploads
from tokenring_xdit.sizes import PictureSize

__all__ = ["PictureParser"]

_AUTO = "auto"

_PARTS, _SIDES = 32, 16
"""Parts of a side that smaller sizes differ by, and what their sides are multiples of, as most models want."""


class PictureParser(RequestParser[ServeConfig]):
    """Where requests for pictures and videos are checked.

    Args:
        config: What is served.
        limits: What a request may ask for.
        owner: Owns the engine.
        memory: What requests will need.
    """

    def __init__(
        self, config: ServeConfig, limits: RequestLimits, owner: EngineOwner, memory: MemoryForecast | None = None
    ) -> None:
        super().__init__(config, limits, owner)
        self._memory = MemoryForecast() if memory is None else memory

    @functools.cached_property
    def pipeline(self) -> type:
        """The class of the model's pipeline."""
        return pipeline_of(self.config)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """What is taken where a request says nothing; ``None`` for what the pipeline works out."""
        return picture_values(self.config)

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
        elif takes_picture(self.pipeline):
            most["upload_bytes"] = self.limits.upload
            most["pictures"] = MOST_PICTURES if pipeline_named(self.pipeline.__name__).references else 1
        dims = self.config.degrees
        return {
            "kind": "video" if video else "image",
            "defaults": {"size": size, **defaults},
            **({} if video else {"pictures": self._pictures()}),
            "limits": {**most, "n": 1 if video else 10, "body_bytes": self.limits.body, "waiting": self.limits.waiting},
            "ranks": {"tokenring": dims.tokenring, "ulysses": dims.ulysses, "schedule": dims.schedule},
        }

    def _pictures(self) -> dict[str, Any]:
        """Which pictures are needed, or taken, by the fields of an edit, and the default strength."""
        needed, mask = needed_options(self.pipeline), mask_keyword(self.pipeline)
        names = {"image": image_keyword(self.pipeline), "mask": mask} if takes_picture(self.pipeline) else {}
        found: dict[str, Any] = {
            field: "needed" if name in needed else "taken" for field, name in names.items() if name is not None
        }
        strength = parameters_of(self.pipeline).get("strength") if found else None
        return found if strength is None else {**found, "strength": first_of(self.config.strength, strength.default)}

    def picture(self, body: GenerationBody) -> PictureOrder:
        """The order of ``/v1/images/generations``.

        Raises:
            TokenRingError: It is refused.
        """
        if needs_picture(self.pipeline):
            raise RefusedError(
                f"'{self.config.name}' starts from a picture: send one to /v1/images/edits", code="unsupported"
            )
        return self._order("image", body, *_drawn(body))

    def refuse_edits(self) -> None:
        """Refuse pictures where the model takes none, before anything is read of them.

        Raises:
            RefusedError: It takes none.
        """
        if not takes_picture(self.pipeline):
            raise RefusedError(
                f"'{self.config.name}' takes no picture: use /v1/images/generations, or a server with "
                "task=image-to-image",
                code="unsupported",
            )

    def edit(self, body: EditBody, uploads: Uploads) -> PictureOrder:
        """The order of ``/v1/images/edits``.

        Raises:
            TokenRingError: It is refused.
        """
        name, mask = self.config.name, mask_keyword(self.pipeline)
        count = len(uploads.pictures)
        references = pipeline_named(self.pipeline.__name__).references
        if count > 1 and not references:
            raise RefusedError(f"image: {count} pictures were sent, and '{name}' starts from one", "image")
        if uploads.mask is not None and mask is None:
            raise RefusedError(f"mask: '{name}' takes none: leave it out", "mask")
        if uploads.mask is None and mask in needed_options(self.pipeline):
            raise RefusedError(f"mask: is missing, and '{name}' needs one", "mask", code="missing_field")
        strength = first_of(body.strength, self.config.strength)
        given = {
            image_keyword(self.pipeline): uploads.pictures[0] if count == 1 else list(uploads.pictures),
            **({} if mask is None or uploads.mask is None else {mask: uploads.mask}),
            **({} if strength is None else {"strength": strength}),
        }
        pixels = sum(picture.width * picture.height for picture in uploads.pictures)
        inputs = InputPictures(count, pixels.bit_length() if references else 0)
        pictures, previews = _drawn(body)
        return self._order("image", body, pictures, previews, together=1, given=given, inputs=inputs)

    def _steps(self, steps: int, strength: float | None) -> int:
        """How many of the steps are made."""
        parameter = parameters_of(self.pipeline).get("strength")
        return steps if parameter is None else steps_taken(steps, first_of(strength, parameter.default))

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
            wanted, most = body.seconds * fps, self.limits.frames
            if wanted >= most + 0.5:
                words = (
                    f"seconds: {body.seconds:g} are more than {most / fps:g}, the {most} frames that this server makes"
                )
                raise RefusedError(words, "seconds")
            frames = max(1, round(wanted))
        return replace(self._order("video", body, 1, 0, frames=frames, fps=fps), stored=stored)

    def warm_ups(self, engine: Engine) -> list[PictureOrder]:
        """What is made before anybody asks, by two steps, as a step's time is between them.

        Raises:
            TokenRingError: The config's ``warm_up`` has a size that the model does not take.
        """
        sizes, frames = self.config.warm_up, self.config.frames
        said = {"prompt": "a picture", "steps": 2, "seed": 0}
        bodies = [PromptBody.model_validate({**said, "size": str(size)}) for size in sizes]
        return [self._order("warm-up", body, 1, 0, frames=frames, engine=engine) for body in bodies]

    def _order(
        self,
        kind: str,
        body: PromptBody,
        count: int,
        previews: int,
        *,
        frames: int | None = None,
        fps: int = 1,
        together: int | None = None,
        given: Mapping[str, Any] | None = None,
        inputs: InputPictures = NO_INPUTS,
        engine: Engine | None = None,
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
            **(given or {}),
        }
        seed = secrets.randbelow(DRAWN_SEEDS) if body.seed is None else body.seed
        if seed + count - 1 > LARGEST_SEED:
            raise RefusedError(f"seed: {seed} leaves no seeds for {count} pictures", "seed")
        engine = self.engine() if engine is None else engine
        together = together or min(count, config.batch_size)
        prompt = body.prompt if together == 1 else [body.prompt] * together
        request = engine.check(prompt, seed=seed, **arguments)
        values = {name: first_of(getattr(request, name), default) for name, default in self.defaults.items()}
        self._refuse_beyond(values)
        width, height, frames = (values.get(name) or 0 for name in ("width", "height", "frames"))

        def takes(size: PictureSize) -> bool:
            with contextlib.suppress(TokenRingError):
                engine.check(prompt, seed=seed, **{**arguments, "width": size.width, "height": size.height})
                return True
            return False

        asked = PictureSize(width, height) if width and height else None
        self._refuse_too_large(asked, frames or 1, together, inputs, takes)
        return PictureOrder(
            kind=kind,
            prompt=body.prompt,
            seed=seed,
            count=count,
            together=together,
            steps=self._steps(values.get("steps") or 1, arguments.get("strength")),
            size=str(PictureSize(width, height)) if width and height else _AUTO,
            pixels=width * height * (frames or 1),
            frames=frames or 1,
            fps=fps,
            previews=previews,
            inputs=inputs,
            arguments={name: value for name, value in arguments.items() if value is not None},
        )

    def _size(self, said: str | None) -> PictureSize | None:
        if said is None or said == _AUTO:
            return self.config.size
        with contextlib.suppress(ConfigurationError):
            if "x" in said.lower():  # else it is a number of pixels, which a config may say
                return PictureSize.parse(said)
        raise RefusedError(f"size: {shown(said)} is neither WIDTHxHEIGHT, such as 1024x1024, nor 'auto'", "size")

    def _refuse_beyond(self, values: dict[str, Any]) -> None:
        pixels = (values.get("width") or 1) * (values.get("height") or 1)
        most = self.limits
        if pixels > most.pixels:
            raise RefusedError(
                f"size: {pixels} pixels are asked for, and this server generates at most {most.pixels}", "size"
            )
        if (values.get("frames") or 1) > most.frames:
            raise RefusedError(
                f"frames: {values['frames']} are more than the {most.frames} that this server makes", "frames"
            )
        if (values.get("steps") or 1) > most.steps:
            raise RefusedError(
                f"steps: {values['steps']} are more than the {most.steps} that this server makes", "steps"
            )

    def _refuse_too_large(
        self,
        size: PictureSize | None,
        frames: int,
        together: int,
        inputs: InputPictures,
        takes: Callable[[PictureSize], bool],
    ) -> None:
        """Refuse what needs more memory than is free, as far as that is known; ``takes`` says what the model takes."""

        def pixels(size: PictureSize) -> int:
            return size.width * size.height * frames * together

        if size is None or not self._memory.too_much(pixels(size), inputs):
            return
        needed, free = self._memory.needed(pixels(size), inputs) or 0.0, self._memory.free() or 0
        what = f"{together} pictures of {size} at once need" if together > 1 else f"{size} needs"
        what = f"{size} with {frames} frames needs" if frames > 1 else what
        fits = (each for each in _smaller(size) if self._memory.fits(pixels(each), inputs) and takes(each))
        found = next(fits, None)
        raise RefusedError(
            f"size: {what} about {bytes_in_words(needed)} of a rank's memory, and {bytes_in_words(max(0, free))} are "
            f"free; {f'{found} fits' if found else 'nor does any smaller size of this form fit'}",
            "size",
            code="not_enough_memory",
        )


def _smaller(size: PictureSize) -> Iterator[PictureSize]:
    """Sizes of about the same form, the largest first."""
    for part in range(_PARTS - 1, 0, -1):
        width, height = (side * part // _PARTS // _SIDES * _SIDES for side in (size.width, size.height))
        if width and height:
            yield PictureSize(width, height)


def _drawn(body: GenerationBody) -> tuple[int, int]:
    """How many pictures, and pictures on the way, are asked for.

    Raises:
        RefusedError: These are not handed out like that.
    """
    count, previews = body.n or 1, body.partial_images or 0
    if body.response_format == "url":
        raise RefusedError(
            "response_format: pictures are not kept here, so there is no url: use b64_json", "response_format"
        )
    if body.output_compression is not None and (body.output_format or "png") == "png":
        raise RefusedError("output_compression: is for jpeg and webp, and output_format is png", "output_compression")
    if previews and not body.stream:
        raise RefusedError("partial_images: needs a stream: say stream=true as well", "partial_images")
    if body.stream and count > 1:
        raise RefusedError(f"n: {count} pictures cannot be streamed: ask for one, or leave stream out", "n")
    return count, previews
