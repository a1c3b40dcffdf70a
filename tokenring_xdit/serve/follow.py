"""What happens to a job, as a coroutine hears it; its client's going away gives the job up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from tokenring_xdit.serve.jobs import Event, JobEnded

__all__ = ["ClientGoneError", "Feed", "follow"]

_PAUSE = 15.0
"""Seconds without an event after which a stream says that it is alive: proxies close what is silent."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


class Feed:
    """Events of one job, told in the engine's thread and heard in the event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.heard: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Take an event, from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.heard.put_nowait, event)


async def follow(feed: Feed, receive: Receive) -> AsyncIterator[Event | None]:
    """The events of a job until it is over; ``None`` after each pause.

    Args:
        feed: Feed of the job.
        receive: Of the client's request, whose body was read.

    Raises:
        ClientGoneError: It has closed the connection.
    """
    leaving = asyncio.ensure_future(_disconnected(receive))
    coming = asyncio.ensure_future(feed.heard.get())
    try:
        while True:
            done, _ = await asyncio.wait({leaving, coming}, timeout=_PAUSE, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                event = coming.result()
                yield event
                if isinstance(event, JobEnded):
                    return
                coming = asyncio.ensure_future(feed.heard.get())
            elif leaving in done:
                raise ClientGoneError
            else:
                yield None
    finally:
        leaving.cancel()
        coming.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
