"""What stands before every request: the key, or else no page of another site; how large and slow a body may be."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from math import inf
from typing import Any

from anyio import move_on_after

from tokenring_xdit.serve.answers import answered
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.origins import refuse_foreign

__all__ = ["OPEN", "Guard"]

OPEN = frozenset({"/live", "/ready", "/health"})
"""Paths that need no key: whoever watches the server has none."""

_DROPPED, _SECONDS_TO_DROP = 2**24, 2.0
"""Bytes of a body that is too large, and seconds for which they are read, before its client is told."""

_BODY_SECONDS, _BYTES_A_SECOND = 20.0, 2**16
"""Seconds that are waited for a body, and bytes for each of which, at this rate, there is more time."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware.

    Args:
        app: What it stands before.
        key: What clients have to say; ``None`` where they need not.
        most: Bytes of a body.
        more: The same of paths that take more.
        open_paths: Paths that need no key.
        host: Name of the server, by which it is asked where there is no key, beside its addresses.
        on_refused: Called with method and path of a request whose body is too large, too slow, or does not come.
        body_seconds: Seconds that are waited for a body, beside the time that its bytes take at a slow rate.
    """

    def __init__(
        self,
        app: App,
        key: str | None,
        most: int,
        more: Mapping[str, int] | None = None,
        open_paths: Collection[str] = OPEN,
        host: str | None = None,
        on_refused: Callable[[str, str], object] = lambda method, path: None,
        body_seconds: float = _BODY_SECONDS,
    ) -> None:
        self._app, self._most, self._more, self._open = app, most, more or {}, open_paths
        self._host, self._on_refused, self._seconds = host, on_refused, body_seconds
        self._expected = None if key is None else _digest(key.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"].rstrip("/")
        if path:  # a slash at the end changes nothing; sent elsewhere, many clients would not go
            scope = {**scope, "path": path}
        if scope["method"] == "HEAD":  # whoever carries the answer leaves its body out
            scope = {**scope, "method": "GET"}
        try:
            self._refuse_foreign(scope, headers)
        except RefusedError as foreign:
            await answered(foreign)(scope, receive, send)
            return
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            error = RefusedError(
                "this server needs its key, as 'Authorization: Bearer KEY'", status=401, code="invalid_api_key"
            )
            await answered(error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        try:
            await self._within_limits(scope, headers, receive, send)
        except _RefusedBody as refused:
            self._on_refused(scope["method"], scope["path"])
            if refused.large and b"expect" not in headers:  # who asks first has sent nothing
                await _drop(receive)
            if refused.error is not None:
                await answered(refused.error, {"Connection": "close"})(scope, receive, send)

    def _refuse_foreign(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        if self._expected is None and scope["path"] not in OPEN:
            refuse_foreign(scope["method"], headers, self._host)

    def _may_enter(self, path: str, said: bytes) -> bool:
        if self._expected is None or path in self._open:
            return True
        scheme, _, key = said.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self._expected)

    async def _within_limits(self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        said, most = headers.get(b"content-length", b"0"), self._most_of(scope)
        if said.isdigit() and int(said) > most:
            raise _RefusedBody(_too_large(most), large=True)
        taken, waited, whole = 0, 0.0, False
        answered = False

        async def counted() -> Message:
            nonlocal taken, waited, whole
            began = time.monotonic()
            with move_on_after(
                inf if whole or answered else self._seconds + taken / _BYTES_A_SECOND - waited
            ) as waiting:
                message = await receive()
            if waiting.cancelled_caught:
                raise _RefusedBody(_too_slow(taken, waited + time.monotonic() - began))
            if message["type"] == "http.disconnect" and not (whole or answered):
                raise _RefusedBody(None)
            waited += time.monotonic() - began
            whole = whole or not message.get("more_body", False)
            taken += len(message.get("body", b""))
            if taken > most and not answered:
                raise _RefusedBody(_too_large(most), large=True)
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self._app(scope, counted, noted)

    def _most_of(self, scope: Message) -> int:
        return self._more.get(scope["path"], self._most)


async def _drop(receive: Receive) -> None:
    """Read on for a while: a connection that is closed with something unread is reset, and nobody hears the answer."""
    dropped = 0
    with move_on_after(_SECONDS_TO_DROP):
        while dropped < _DROPPED:
            message = await receive()
            dropped += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        f"the body has more than {most} bytes, which is as many as this server reads",
        status=413,
        code="body_too_large",
    )


def _too_slow(taken: int, seconds: float) -> RefusedError:
    return RefusedError(f"the body comes too slowly: {taken} bytes in {seconds:.0f} s", status=408, code="too_slow")


class _RefusedBody(BaseException):
    """A body is not read to its end: not an error that an application handles.

    Attributes:
        error: Why; ``None`` where the client has gone in the middle of it.
        large: Whether it is too large.
    """

    def __init__(self, error: RefusedError | None, *, large: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.large = error, large


def _digest(key: bytes) -> bytes:
    """Of one length, whatever the key is, so that comparing tells nothing of it."""
    return hashlib.sha256(key).digest()
