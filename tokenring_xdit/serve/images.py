"""``/v1/images``: pictures, as OpenAI's clients ask for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tokenring_xdit.serve.desk import PictureDesk
from tokenring_xdit.serve.errors import RefusedError, problem_of
from tokenring_xdit.serve.follow import Feed
from tokenring_xdit.serve.jobs import Event, Job, Stepped
from tokenring_xdit.serve.media import encoded
from tokenring_xdit.serve.office import REQUEST_ID, Office
from tokenring_xdit.serve.schema import GenerationBody, OutputFormat
from tokenring_xdit.serve.stream import EventStream, event, failed_answer

__all__ = ["image_routes"]

_BEST = 100


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


def image_routes(office: Office, desk: PictureDesk) -> APIRouter:
    """The routes.

    Args:
        office: Takes requests.
        desk: Where they are checked.
    """
    routes = APIRouter(tags=["images"])

    @routes.post("/v1/images/generations", responses={200: {"content": {"text/event-stream": {}}}})
    async def generations(body: GenerationBody, request: Request) -> Response:
        """Draw pictures: ``n`` of them, or one that is streamed as it is made."""
        feed = Feed()
        job = await office.accept("image", lambda: desk.picture(body), feed.tell, request)
        form = _Form.of(body)
        if body.stream:
            return EventStream(office, job, feed, lambda events: _streamed(job, events, form))
        failed = await failed_answer(office, job, feed, request)
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

    @routes.post("/v1/images/edits", responses={400: {"description": "Requests bring no pictures"}})
    async def edits() -> Response:
        """Refused, in a sentence: requests bring no pictures."""
        office.meters.refused("image")
        raise RefusedError(
            "pictures are not edited here, as requests bring none: use tokenring_xdit.parallelize with a model that "
            "edits them, or /v1/images/generations",
            code="unsupported",
        )

    return routes


def _size(picture: Any) -> str:
    return f"{picture.width}x{picture.height}"


async def _streamed(job: Job, events: AsyncIterator[Event | None], form: _Form) -> AsyncIterator[str]:
    """Events of OpenAI's, of what happens to a job; steps are comments, which its clients pass over."""
    shown = 0
    async for each in events:
        if each is None:
            yield ""
        elif isinstance(each, Stepped):
            yield f": step {each.step} of {job.order.all_steps}\n\n"
            if each.preview is not None:
                yield await _event("image_generation.partial_image", each.preview, form, partial_image_index=shown)
                shown += 1
    if job.error is not None:
        yield event({"type": "error", **problem_of(job.error).body}, "error")
        return
    (picture,) = job.take()
    yield await _event("image_generation.completed", picture, form, seed=job.order.seed, id=job.id)


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
