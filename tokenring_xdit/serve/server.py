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
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.app import application
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits, ServeConfig, TextServeConfig, films
from tokenring_xdit.serve.desk import PictureDesk
from tokenring_xdit.serve.drawing import Drawing
from tokenring_xdit.serve.filming import Filming
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.keeper import Craft, Keeper
from tokenring_xdit.serve.line import WaitingLine
from tokenring_xdit.serve.metrics import Meters
from tokenring_xdit.serve.office import Office
from tokenring_xdit.serve.shelf import VideoShelf
from tokenring_xdit.serve.talking import Talking
from tokenring_xdit.serve.text_desk import TextDesk

__all__ = ["serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LAST_ANSWERS = 3
"""Seconds for clients to take what they are told at the end."""


def serve(
    config: AnyServeConfig,
    limits: RequestLimits,
    *,
    host: str,
    port: int,
    key: str | None,
    timeout: float,
    grace: float,
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

    Raises:
        LaunchError: Nobody can listen there, or a rank failed while it loaded.
        TokenRingError: The model cannot be served.
    """
    listening = _listen(host, port)
    with listening:
        asyncio.run(_serve(config, limits, listening, key, timeout, grace))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise LaunchError(f"the server cannot listen on {host}, port {port}: {error}; choose another --port") from error


async def _serve(
    config: AnyServeConfig,
    limits: RequestLimits,
    listening: socket.socket,
    key: str | None,
    timeout: float,
    grace: float,
) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        loop.call_soon_threadsafe(ended.set)

    def make() -> Engine:
        if isinstance(desk, TextDesk):
            desk.load()
        return _engine(config, timeout)

    line = WaitingLine(limits.waiting)
    text = isinstance(config, TextServeConfig)
    shelf = VideoShelf(limits.stored) if isinstance(config, ServeConfig) and films(config) else None
    meters = Meters(config.degrees, line, "text" if text else "image" if shelf is None else "video")
    keeper = Keeper(make, line, _craft(text, meters, shelf), meters, end)
    meters.watch(keeper)
    desk = _desk(config, limits, keeper)
    office = Office(desk, keeper, meters) if shelf is None else Office(desk, keeper, meters, shelf.names)
    app = application(office, key, shelf)
    for each in _SIGNALS:
        loop.add_signal_handler(each, end)
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS,
        )
    )
    keeper.start()
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    host, port = listening.getsockname()[:2]
    print(f"serving {config.name} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    ending = asyncio.ensure_future(ended.wait())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(keeper.stop, grace)
    server.should_exit = True
    await serving
    ending.cancel()
    if shelf is not None:
        shelf.close()
    if keeper.error is not None:
        raise keeper.error
    print("ended", file=sys.stderr, flush=True)


def _desk(config: AnyServeConfig, limits: RequestLimits, keeper: Keeper) -> TextDesk | PictureDesk:
    if isinstance(config, TextServeConfig):
        return TextDesk(config, limits, keeper)
    return PictureDesk(config, limits, keeper)


def _craft(text: bool, meters: Meters, shelf: VideoShelf | None) -> Craft:
    if text:
        return Talking(Forecast(), meters.answered)
    drawing = Drawing(Forecast(), meters.step)
    return drawing if shelf is None else Filming(drawing, shelf)


def _engine(config: AnyServeConfig, timeout: float) -> Engine:
    if isinstance(config, TextServeConfig):
        return Engine(
            config.model,
            tokenring_degree=config.tokenring_degree,
            dtype=config.dtype,
            timeout=timeout,
            tokens_per_rank=config.tokens_per_rank,
            ray=config.ray,
        )
    return Engine(
        config.model,
        tokenring_degree=config.tokenring_degree,
        ulysses_degree=config.ulysses_degree,
        schedule=config.schedule,
        attention_backend=config.attention_backend,
        dtype=config.dtype,
        timeout=timeout,
        largest_side=config.largest_side,
        cuda_graphs=config.cuda_graphs,
        ray=config.ray,
    )


class _Server(uvicorn.Server):
    """Whose signals are ours: the engine is to be told first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield
