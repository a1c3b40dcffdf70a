"""All of a server but its socket: an engine, who owns it, and the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.app import application
from tokenring_xdit.serve.chat_runner import ChatRunner
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits, ServeConfig, TextServeConfig, films
from tokenring_xdit.serve.engine_owner import EngineOwner, JobRunner
from tokenring_xdit.serve.foresee import Learned
from tokenring_xdit.serve.intake import Intake
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.metrics import Meters
from tokenring_xdit.serve.parsing import PictureParser
from tokenring_xdit.serve.picture_runner import PictureRunner
from tokenring_xdit.serve.queue import JobQueue
from tokenring_xdit.serve.text_parsing import TextParser
from tokenring_xdit.serve.video_runner import VideoRunner
from tokenring_xdit.serve.video_store import VideoStore

__all__ = ["Service", "make_engine"]


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
        host: Name of the server, by which it is asked where there is no key, beside its addresses.

    Attributes:
        owner: Owns the engine.
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
        host: str | None = None,
    ) -> None:
        def make() -> Engine:
            if isinstance(parser, TextParser):
                parser.load()
            return make_engine(config, timeout, config.ray if ray is None else ray)

        def prepare(engine: Engine) -> None:
            learned.recall(engine.cluster)
            if isinstance(parser, PictureParser):
                drawing.warm_up(engine, parser.warm_ups(engine))

        queue = JobQueue(limits.waiting)
        text = isinstance(config, TextServeConfig)
        store = VideoStore(limits.stored) if isinstance(config, ServeConfig) and films(config) else None
        meters = Meters(config.degrees, queue, "text" if text else "image" if store is None else "video")
        memory = MemoryForecast(config.memory_per_rank if isinstance(config, ServeConfig) else None, meters.memory)
        learned = Learned(config, memory)
        drawing = PictureRunner(learned.forecast, meters.step, memory, meters.took, meters.sent, meters.exposed)
        runner = _runner(text, meters, drawing, store, learned)
        self.owner = EngineOwner(make, queue, runner, meters, on_broken, prepare, learned.keep, learned.forecast.cool)
        meters.watch(self.owner)
        parser = _parser(config, limits, self.owner, memory)
        intake = Intake(parser, self.owner, meters, frozenset if store is None else store.names)
        self.app = application(intake, key, store, page=page, host=host)
        self._store = store

    def start(self) -> None:
        """Load, and serve from then on."""
        self.owner.start()

    def stop(self, grace: float) -> None:
        """Serve nothing any more, and end the ranks.

        Args:
            grace: Seconds that the running request gets to reach its next step.
        """
        self.owner.stop(grace)

    def close(self) -> None:
        """Forget what was made, once nobody asks for it."""
        if self._store is not None:
            self._store.close()


def _parser(
    config: AnyServeConfig, limits: RequestLimits, owner: EngineOwner, memory: MemoryForecast
) -> TextParser | PictureParser:
    if isinstance(config, TextServeConfig):
        return TextParser(config, limits, owner)
    return PictureParser(config, limits, owner, memory)


def _runner(
    text: bool, meters: Meters, drawing: PictureRunner, store: VideoStore | None, learned: Learned
) -> JobRunner:
    if text:
        return ChatRunner(learned.forecast, meters.answered, learned.memory, meters.sent, meters.exposed)
    return drawing if store is None else VideoRunner(drawing, store)


def make_engine(config: AnyServeConfig, timeout: float, ray: Any) -> Engine:
    """The engine of a config, whose ranks are not started yet.

    Args:
        config: Which.
        timeout: Seconds without a sign of life from the ranks.
        ray: Where they are; ``None`` for this machine.
    """
    if isinstance(config, TextServeConfig):
        return Engine(
            config.model,
            tokenring_degree=config.tokenring_degree,
            dtype=config.dtype,
            timeout=timeout,
            tokens_per_rank=config.tokens_per_rank,
            ray=ray,
            start=False,
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
        controlnet=config.controlnet,
        scheduler=config.scheduler,
        loras=config.loras,
        ray=ray,
        start=False,
    )
