"""``/v1/images``: pictures, as OpenAI's clients ask for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.serve.errors import problem_of
from tokenring_xdit.serve.follow import Feed
from tokenring_xdit.serve.forms import read_files
from tokenring_xdit.serve.intake import REQUEST_ID, Intake
from tokenring_xdit.serve.jobs import Event, Job, Order, Stepped
from tokenring_xdit.serve.media import encoded
from tokenring_xdit.serve.parsing import PictureParser
from tokenring_xdit.serve.schema import EditBody, GenerationBody, OutputFormat
from tokenring_xdit.serve.stream import EventStream, event, failed_answer
from tokenring_xdit.serve.uploads import MOST_PICTURES, Uploads

__all__ = ["EDITS", "image_routes"]

EDITS = "/v1/images/edits"

_FILES = ("image", "image[]", "mask")

_FILE = {"type": "string", "format": "binary"}
_SCHEMA = EditBody.model_json_schema()
_SAID = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    **_SCHEMA,
                    "properties": {
                        **_SCHEMA["properties"],
                        "image": {"anyOf": [_FILE, {"type": "array", "items": _FILE}]},
                        "mask": _FILE,
                    },
                    "required": [*_SCHEMA["required"], "image"],
                }
            }
        },
    }
}

_BEST = 100

_DECODED = 2
"""Requests whose pictures are decoded at once: each takes a core, and memory of what --max-pixels allows."""


@dataclass(frozen=True)
class _Form:
    """How pictures are handed out."""

    format: OutputFormat
    quality: int

    @classmethod
    def of(cls, body: GenerationBody) -> _Form:
        return cls(body.output_format or "png", _BEST if body.output_compression is None else body.output_compression)

    async def encoded(self, picture: Any) -> str:
        return await run_in_threadpool(encoded, picture, self.format, self.quality)


def image_routes(intake: Intake, parser: PictureParser) -> APIRouter:
    """The routes.

    Args:
        intake: Takes requests.
        parser: Where they are checked.
    """
    routes = APIRouter(tags=["images"])
    decoding = CapacityLimiter(_DECODED)  # threads of its own, so that /metrics and cancelling wait for none

    @routes.post("/v1/images/generations", responses={200: {"content": {"text/event-stream": {}}}})
    async def generations(body: GenerationBody, request: Request) -> Response:
        """Generate pictures: ``n`` of them, or one that is streamed as it is made."""
        return await _answer(intake, body, lambda: parser.picture(body), request, "image_generation")

    @routes.post(EDITS, openapi_extra=_SAID, responses={200: {"content": {"text/event-stream": {}}}})
    async def edits(request: Request) -> Response:
        """Regenerate pictures, for models that take them: all of them, or where a mask is transparent."""
        try:
            parser.refuse_edits()
            with intake.uploading():  # refuses before anything large is read
                fields, files = await read_files(request, _FILES, MOST_PICTURES + 1)
                body = EditBody.model_validate(fields, strict=False)
                uploads = await run_sync(Uploads.read, files, parser.limits.pixels, limiter=decoding)
        except TokenRingError:
            intake.meters.refused("image")
            raise
        except ValidationError as error:
            details = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise RequestValidationError(details) from error
        return await _answer(intake, body, lambda: parser.edit(body, uploads), request, "image_edit")

    return routes


async def _answer(
    intake: Intake, body: GenerationBody, order: Callable[[], Order], request: Request, kind: str
) -> Response:
    """Have a request wait its turn, and answer with what was made.

    Args:
        intake: Takes it.
        body: What is asked for.
        order: Checks it.
        request: Request of the client.
        kind: What events of a stream are called.
    """
    feed = Feed()
    job = await intake.accept("image", order, feed.tell, request)
    form = _Form.of(body)
    if body.stream:
        return EventStream(intake, job, feed, lambda events: _streamed(job, events, form, kind))
    failed = await failed_answer(intake, job, feed, request)
    if failed is not None:
        return failed
    made = job.take()
    seeds = range(job.order.seed, job.order.seed + len(made))
    data = [{"b64_json": await form.encoded(p), "seed": seed} for p, seed in zip(made, seeds, strict=True)]
    answer = {
        "created": job.created,
        "data": data,
        "size": _size(made[0]),
        "output_format": form.format,
        "id": job.id,
        "seed": job.order.seed,
    }
    return JSONResponse(answer, headers={REQUEST_ID: job.id})


def _size(picture: Any) -> str:
    return f"{picture.width}x{picture.height}"


async def _streamed(job: Job, events: AsyncIterator[Event | None], form: _Form, kind: str) -> AsyncIterator[str]:
    """Events of OpenAI's, of what happens to a job; steps are comments, which its clients pass over."""
    shown = 0
    async for each in events:
        if each is None:
            yield ""
        elif isinstance(each, Stepped):
            yield f": step {each.step} of {job.order.all_steps}\n\n"
            if each.preview is not None:
                yield await _event(f"{kind}.partial_image", each.preview, form, partial_image_index=shown)
                shown += 1
    if job.error is not None:
        yield event({"type": "error", **problem_of(job.error).body}, "error")
        return
    (picture,) = job.take()
    yield await _event(f"{kind}.completed", picture, form, seed=job.order.seed, id=job.id)


async def _event(kind: str, picture: Any, form: _Form, **more: Any) -> str:
    content = {
        "type": kind,
        "b64_json": await form.encoded(picture),
        "created_at": int(time.time()),
        "size": _size(picture),
        "output_format": form.format,
        "quality": "auto",
        "background": "opaque",
        **more,
    }
    return event(content, kind)
