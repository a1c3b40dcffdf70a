"""All of a server but its socket: an engine, who owns it, and the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.app import application
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits, ServeConfig, TextServeConfig, films
from tokenring_xdit.serve.desk import PictureDesk
from tokenring_xdit.serve.drawing import Drawing
from tokenring_xdit.serve.filming import Filming
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.keeper import Craft, Keeper
from tokenring_xdit.serve.line import WaitingLine
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.metrics import Meters
from tokenring_xdit.serve.office import Office
from tokenring_xdit.serve.shelf import VideoShelf
from tokenring_xdit.serve.talking import Talking
from tokenring_xdit.serve.text_desk import TextDesk

__all__ = ["Service"]


class Service:
    """What serves a model over HTTP, whoever listens.

    Args:
        config: What.
        limits: What a request may ask for.
        key: What clients have to say; ``None`` where they need not.
        timeout: Seconds without a sign of life from the ranks, where nothing better is known.
        on_broken: Called where no engine can be made, or the server cannot go on.
        ray: Where the ranks are, as :class:`~tokenring_xdit.pipelines.engine.Engine` takes it; by default what the
            config says.
        page: Whether there is a page for the browser.

    Attributes:
        keeper: Owns the engine.
        app: The application.
    """

    def __init__(
        self,
        config: AnyServeConfig,
        limits: RequestLimits,
        *,
        key: str | None,
        timeout: float,
        on_broken: Callable[[], object],
        ray: Any = None,
        page: bool = False,
    ) -> None:
        def make() -> Engine:
            if isinstance(desk, TextDesk):
                desk.load()
            engine = _engine(config, timeout, config.ray if ray is None else ray)
            if isinstance(desk, PictureDesk):
                drawing.warm_up(engine, desk.warm_ups(engine))
            return engine

        line = WaitingLine(limits.waiting)
        text = isinstance(config, TextServeConfig)
        shelf = VideoShelf(limits.stored) if isinstance(config, ServeConfig) and films(config) else None
        meters = Meters(config.degrees, line, "text" if text else "image" if shelf is None else "video")
        memory = MemoryForecast(config.memory_per_rank if isinstance(config, ServeConfig) else None, meters.memory)
        drawing = Drawing(Forecast(), meters.step, memory)
        self.keeper = Keeper(make, line, _craft(text, meters, drawing, shelf), meters, on_broken)
        meters.watch(self.keeper)
        desk = _desk(config, limits, self.keeper, memory)
        office = Office(desk, self.keeper, meters) if shelf is None else Office(desk, self.keeper, meters, shelf.names)
        self.app = application(office, key, shelf, page=page)
        self._shelf = shelf

    def start(self) -> None:
        """Load, and serve from then on."""
        self.keeper.start()

    def stop(self, grace: float) -> None:
        """Serve nothing any more, and end the ranks.

        Args:
            grace: Seconds that the running request gets to reach its next step.
        """
        self.keeper.stop(grace)

    def close(self) -> None:
        """Forget what was made, once nobody asks for it."""
        if self._shelf is not None:
            self._shelf.close()


def _desk(
    config: AnyServeConfig, limits: RequestLimits, keeper: Keeper, memory: MemoryForecast
) -> TextDesk | PictureDesk:
    if isinstance(config, TextServeConfig):
        return TextDesk(config, limits, keeper)
    return PictureDesk(config, limits, keeper, memory)


def _craft(text: bool, meters: Meters, drawing: Drawing, shelf: VideoShelf | None) -> Craft:
    if text:
        return Talking(Forecast(), meters.answered)
    return drawing if shelf is None else Filming(drawing, shelf)


def _engine(config: AnyServeConfig, timeout: float, ray: Any) -> Engine:
    if isinstance(config, TextServeConfig):
        return Engine(
            config.model,
            tokenring_degree=config.tokenring_degree,
            dtype=config.dtype,
            timeout=timeout,
            tokens_per_rank=config.tokens_per_rank,
            ray=ray,
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
        task=config.choice.task,
        scheduler=config.scheduler,
        loras=config.loras,
        ray=ray,
    )
