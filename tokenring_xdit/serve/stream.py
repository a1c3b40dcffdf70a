"""How a job's outcome reaches its client: as a whole, or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tokenring_xdit.errors import CancelledError
from tokenring_xdit.serve.answers import answered
from tokenring_xdit.serve.errors import GIVEN_UP
from tokenring_xdit.serve.follow import ClientGoneError, Feed, follow
from tokenring_xdit.serve.intake import REQUEST_ID, Intake
from tokenring_xdit.serve.jobs import Event, Job

__all__ = ["EventStream", "event", "failed_answer"]

_ALIVE = ": still here\n\n"


async def failed_answer(intake: Intake, job: Job, feed: Feed, request: Request) -> Response | None:
    """Wait until a job is over; the answer where it failed, or its client has gone."""
    try:
        async for _ in follow(feed, request.receive):
            pass
    except ClientGoneError:
        _abandon(intake, job)
        return Response(status_code=GIVEN_UP)
    return None if job.error is None else answered(job.error, {REQUEST_ID: job.id})


def event(content: Mapping[str, Any], kind: str | None = None) -> str:
    """An event as it is sent.

    Args:
        content: Written as JSON.
        kind: Its name, where it has one.
    """
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n" if kind else f"data: {json.dumps(content)}\n\n"


class EventStream(Response):
    """A job's outcome as server-sent events; its client's going away gives it up.

    Args:
        intake: Took it.
        job: The job.
        feed: Feed of the job.
        written: Makes events, as texts, of what happens.
    """

    media_type = "text/event-stream"

    def __init__(
        self, intake: Intake, job: Job, feed: Feed, written: Callable[[AsyncIterator[Event | None]], AsyncIterator[str]]
    ) -> None:
        super().__init__(headers={REQUEST_ID: job.id, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._intake, self._job, self._feed, self._written = intake, job, feed, written

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        whole = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for text in self._written(follow(self._feed, receive)):
                await send({"type": "http.response.body", "body": (text or _ALIVE).encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            whole = True
        except (ClientGoneError, OSError):
            pass
        finally:
            if not whole:
                _abandon(self._intake, self._job)


def _abandon(intake: Intake, job: Job) -> None:
    """Nobody wants what is made, or was."""
    intake.owner.cancel(job, CancelledError("the client went away"))
    job.take()
