"""Connections: how long a client may take to ask, and how many may be open; uvicorn has no limits of that."""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenring_xdit.serve.errors import RefusedError, UnavailableError, problem_of

__all__ = ["MOST_UNREAD_SECONDS", "BoundedConnection", "drop_unread"]

MOST_UNREAD_SECONDS = 60
"""Seconds for which a client may read nothing of its answer."""


def drop_unread(listening: socket.socket) -> None:
    """Have the system drop connections whose clients read nothing, or are gone without a word."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * MOST_UNREAD_SECONDS)


class BoundedConnection(H11Protocol):
    """A connection whose client has to send the head of its first request soon, and of a later one once it begins to.

    Where too many are open, the oldest one with nothing under way is closed, so that who sends nothing keeps nobody
    out; where all of them have something, the new one is refused. The time for a body is
    :class:`~tokenring_xdit.serve.guard.Guard`'s business.

    Attributes:
        most: Connections that may be open.
        head_seconds: Seconds for the head of a request.
        last_seconds: Seconds for a client to read its answer once the server ends; what is still under way later,
            uvicorn breaks off with a traceback.
    """

    most = 500
    head_seconds = 10.0
    last_seconds = 2.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opened = self.loop.time()
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The client has come."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """The client says something."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was told to."""
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def send_400_response(self, msg: str) -> None:
        """What the client says is no HTTP; where an answer has begun, or was given, nobody listens for another one."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(RefusedError("this is no request of HTTP/1.1, or breaks off in its middle", code="no_http"))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        if not self._asked_nothing and self.cycle.more_body:  # of which nothing will be made
            self.transport.close()
        self.loop.call_later(self.last_seconds, self.transport.abort)

    def _should_upgrade(self) -> bool:
        """To another protocol, as clients of HTTP/2 offer with every request: never, which is no reason to warn."""
        return False

    @property
    def _asked_nothing(self) -> bool:
        """Whether no request is under way, as far as its head has come."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _watch(self) -> None:
        if self._asked_nothing and self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._be_late)
        elif not self._asked_nothing and self._late is not None:
            self._late.cancel()
            self._late = None

    def _be_late(self) -> None:
        self._late = None
        if self.transport.is_closing() or not self._asked_nothing:
            return
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            words = f"the head of the request did not come within {self.head_seconds:g} s"
            self._refuse(RefusedError(words, status=408, code="too_slow"))
        else:
            self.transport.close()

    def _make_room(self) -> None:
        open_ones = [each for each in self.connections if not each.transport.is_closing()]
        if len(open_ones) <= self.most:  # the others are about to be taken off
            return
        idle = [each for each in open_ones if each is not self and each._is_idle]
        if idle:
            min(idle, key=lambda each: each._opened).transport.close()
        else:
            words = f"{self.most} connections are open, which is as many as may: ask again later"
            self._refuse(UnavailableError(words, status=503, code="too_many_connections", retry_after=1))

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is lost when it is closed."""
        return self._asked_nothing and self.transport.get_write_buffer_size() == 0

    def _refuse(self, error: RefusedError | UnavailableError) -> None:
        """Say why, before there is a request, and close."""
        problem = problem_of(error)
        content = json.dumps(problem.body).encode()
        said = {**problem.headers, "Content-Type": "application/json", "Content-Length": len(content)}
        headers = [(name, str(value)) for name, value in {**said, "Connection": "close"}.items()]
        head = h11.Response(
            status_code=problem.status, headers=headers, reason=HTTPStatus(problem.status).phrase.encode()
        )
        for event in (head, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()
