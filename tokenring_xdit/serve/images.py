"""``/v1/images``: pictures, as OpenAI's clients ask for them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tokenring_xdit.errors import CancelledError
from tokenring_xdit.serve.answers import answered
from tokenring_xdit.serve.errors import problem_of
from tokenring_xdit.serve.follow import ClientGoneError, Feed, follow
from tokenring_xdit.serve.jobs import Job, Stepped
from tokenring_xdit.serve.media import encoded
from tokenring_xdit.serve.office import REQUEST_ID, Office
from tokenring_xdit.serve.schema import GenerationBody, OutputFormat

__all__ = ["image_routes"]

_BEST = 100

_GONE = 499


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


def image_routes(office: Office) -> APIRouter:
    """The routes.

    Args:
        office: Takes requests.
    """
    routes = APIRouter(tags=["images"])

    @routes.post("/v1/images/generations", responses={200: {"content": {"text/event-stream": {}}}})
    async def generations(body: GenerationBody, request: Request) -> Response:
        """Draw pictures: ``n`` of them, or one that is streamed as it is made."""
        feed = Feed()
        job = await office.accept("image", lambda: office.desk.picture(body), feed.tell, request)
        form = _Form.of(body)
        if body.stream:
            return _Stream(office, job, feed, form)
        try:
            async for _ in follow(feed, request.receive):
                pass
        except ClientGoneError:
            _abandon(office, job)
            return Response(status_code=_GONE)
        if job.error is not None:
            return answered(job.error, {REQUEST_ID: job.id})
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

    return routes


def _abandon(office: Office, job: Job) -> None:
    """Nobody wants what is made, or was."""
    office.keeper.cancel(job, CancelledError("the client went away"))
    job.take()


def _size(picture: Any) -> str:
    return f"{picture.width}x{picture.height}"


class _Stream(Response):
    """A picture as server-sent events; its client's going away gives it up."""

    media_type = "text/event-stream"

    def __init__(self, office: Office, job: Job, feed: Feed, form: _Form) -> None:
        super().__init__(headers={REQUEST_ID: job.id, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._office, self._job, self._feed, self._form = office, job, feed, form

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        whole = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for text in self._texts(receive):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            whole = True
        except (ClientGoneError, OSError):
            pass
        finally:
            if not whole:
                _abandon(self._office, self._job)

    async def _texts(self, receive: Any) -> AsyncIterator[str]:
        shown = 0
        async for event in follow(self._feed, receive):
            if event is None:
                yield ": still here\n\n"
            elif isinstance(event, Stepped) and event.preview is not None:
                yield await self._event("image_generation.partial_image", event.preview, partial_image_index=shown)
                shown += 1
        if self._job.error is not None:
            yield _written("error", {"type": "error", **problem_of(self._job.error).body})
            return
        (picture,) = self._job.take()
        yield await self._event("image_generation.completed", picture, seed=self._job.order.seed, id=self._job.id)

    async def _event(self, kind: str, picture: Any, **more: Any) -> str:
        content: MutableMapping[str, Any] = {
            "type": kind,
            "b64_json": await self._form.encoded(picture),
            "created_at": int(time.time()),
            "size": _size(picture),
            "output_format": self._form.format,
            "quality": "auto",
            "background": "opaque",
            **more,
        }
        return _written(kind, content)


def _written(kind: str, content: MutableMapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
