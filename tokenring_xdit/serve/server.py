"""The server as a process: a socket, an event loop, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from tokenring_xdit.errors import LaunchError
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits
from tokenring_xdit.serve.connections import BoundedConnection, drop_unread
from tokenring_xdit.serve.service import Service

__all__ = ["serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LAST_ANSWERS = 3
"""Seconds for clients to receive their last messages."""


def serve(
    config: AnyServeConfig,
    limits: RequestLimits,
    *,
    host: str,
    port: int,
    key: str | None,
    timeout: float,
    grace: float,
    page: bool = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        config: What.
        limits: What a request may ask for.
        host: Address to listen on.
        port: Port; 0 is any that is free.
        key: What clients have to say; ``None`` where they need not.
        timeout: Seconds without a sign of life from the ranks, where nothing better is known.
        grace: Seconds that the running request gets to reach its next step at the end.
        page: Whether there is a page for the browser.

    Raises:
        LaunchError: Nobody can listen there, or a rank failed while it loaded.
        TokenRingError: The model cannot be served.
    """
    listening = _listen(host, port)
    with listening:
        asyncio.run(_serve(config, limits, listening, host, key, timeout, grace, page))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise LaunchError(f"the server cannot listen on {host}, port {port}: {error}; choose another --port") from error
    drop_unread(listening)
    return listening


async def _serve(
    config: AnyServeConfig,
    limits: RequestLimits,
    listening: socket.socket,
    named: str,
    key: str | None,
    timeout: float,
    grace: float,
    page: bool,
) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        loop.call_soon_threadsafe(ended.set)

    service = Service(config, limits, key=key, timeout=timeout, on_broken=end, page=page, host=named)
    for each in _SIGNALS:
        loop.add_signal_handler(each, end)
    server = _Server(
        uvicorn.Config(
            service.app,
            http=BoundedConnection,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS,
        )
    )
    service.start()
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    host, port = listening.getsockname()[:2]
    print(f"serving {config.name} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    ending = asyncio.ensure_future(ended.wait())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(service.stop, grace)
    server.should_exit = True
    await serving
    ending.cancel()
    service.close()
    if service.owner.error is not None:
        raise service.owner.error
    print("ended", file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """A server whose signals we handle: the engine has to stop first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield
