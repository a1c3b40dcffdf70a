"""Takes requests: checks them, enters them in the registry, and queues them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.serve.engine_owner import EngineOwner
from tokenring_xdit.serve.errors import RefusedError, problem_of
from tokenring_xdit.serve.jobs import Event, Job, Order
from tokenring_xdit.serve.metrics import Meters
from tokenring_xdit.serve.registry import JobRegistry
from tokenring_xdit.serve.request_parser import RequestParser

__all__ = ["REQUEST_ID", "Intake"]

REQUEST_ID = "X-Request-Id"
"""Header: the name of a request, which its client may choose."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Intake:
    """Takes requests.

    Args:
        parser: Where they are checked.
        owner: Serves them.
        meters: Counts those that are refused.
        held: Names of requests that are over and have left something to fetch.

    Attributes:
        registry: All requests by name.
        started: When the server was, in seconds since 1970.
    """

    def __init__(
        self,
        parser: RequestParser[Any],
        owner: EngineOwner,
        meters: Meters,
        held: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.parser, self.owner, self.meters = parser, owner, meters
        self.registry, self.started = JobRegistry(held=held), int(time.time())
        self._uploads = 0

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Read what a request brings.

        Raises:
            UnavailableError: Nobody can serve it now, or it would find no place in the queue.
        """
        self.owner.refuse_unready()
        self.owner.refuse_full(self._uploads)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def accept(
        self, kind: str, order: Callable[[], Order], tell: Callable[[Event], None], request: Request
    ) -> Job:
        """Have a request wait its turn.

        Args:
            kind: As metrics name it.
            order: Checks it.
            tell: Called with its events.
            request: Request of the client.

        Raises:
            TokenRingError: It is refused, or cannot be served now.
        """
        try:
            name = _name(request)
            self.owner.refuse_unready()
            job = Job(await run_in_threadpool(order), tell, name)
            if not self.registry.enter(job):
                raise RefusedError(f"{REQUEST_ID}: '{name}' is the name of another request", REQUEST_ID)
            try:
                self.owner.submit(job)
            except TokenRingError:
                self.registry.strike(job)
                raise
        except TokenRingError:
            self.meters.refused(kind)
            raise
        return job

    def find(self, name: str) -> Job:
        """The request of a name.

        Raises:
            RefusedError: There is none.
        """
        job = self.registry.find(name)
        if job is None:
            message = "there is no such request: it never was, or was over long ago"
            raise RefusedError(message, "id", status=404, code="not_found")
        return job

    def described(self, job: Job) -> dict[str, Any]:
        """What ``/v1/requests`` says of one."""
        left = self.owner.seconds_left(job)
        return {
            "id": job.id,
            "object": "request",
            "kind": job.order.kind,
            "status": job.status.value,
            "step": job.step,
            "steps": job.order.all_steps,
            "seed": job.order.seed,
            "created": job.created,
            "seconds_left": _rounded(left),
            "seconds_forecast": _rounded(job.predicted),
            "peak_bytes_forecast": job.predicted_bytes,
            "seconds": None if job.began is None or job.ended is None else _rounded(job.ended - job.began),
            "error": None if job.error is None else problem_of(job.error).message,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _name(request: Request) -> str | None:
    name = request.headers.get(REQUEST_ID)
    if name is not None and not _NAME.fullmatch(name):
        raise RefusedError(f"{REQUEST_ID}: has to be up to 64 letters, digits, '.', '_' and '-'", REQUEST_ID)
    return name
