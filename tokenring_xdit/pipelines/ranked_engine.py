"""What an engine is whatever it serves: its ranks, what they told of the last request, and its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

from tokenring_xdit.pipelines.engine_ranks import EngineRanks, checked_timeout
from tokenring_xdit.pipelines.messages import MemoryUse, RankFigures
from tokenring_xdit.workers.starting import StartedRank

__all__ = ["RankedEngine", "Serving"]


class Serving(Protocol):
    """A model on ranks.

    Attributes:
        ranks: Its ranks.
        last_seed: Seed of the last request; ``None`` before the first.
        figures: What the last request that was served took of each rank, by replica and rank.
    """

    ranks: EngineRanks
    last_seed: int | None
    figures: tuple[RankFigures, ...]


_Self = TypeVar("_Self", bound="RankedEngine")


class RankedEngine(ABC):
    """Base of :class:`tokenring_xdit.pipelines.engine.Engine`."""

    @property
    @abstractmethod
    def _serving(self) -> Serving: ...

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks, by replica and rank; empty before they are started."""
        return self._serving.ranks.processes

    @property
    def workers(self) -> list[StartedRank]:
        """The ranks, by replica and rank, for monitoring; empty as :attr:`processes` is."""
        return self._serving.ranks.workers

    @property
    def cluster(self) -> str | None:
        """Which Ray cluster the ranks are on: its address, and the GPUs that it has; ``None`` for this machine."""
        return self._serving.ranks.cluster

    @property
    def timeout(self) -> float:
        """Seconds without progress after which ranks are killed; may be set between two requests."""
        return self._serving.ranks.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._serving.ranks.timeout = checked_timeout(seconds)

    @property
    def last_seed(self) -> int | None:
        """Seed of the last request, given or random; ``None`` before the first."""
        return self._serving.last_seed

    @property
    def memory(self) -> tuple[MemoryUse, ...]:
        """What ranks held in memory for the last request that was served, by replica and rank.

        Empty before the first one, and on systems without this information.
        """
        return tuple(each.memory for each in self._serving.figures if each.memory is not None)

    @property
    def sent(self) -> tuple[int, ...]:
        """Bytes that ranks sent for attention in the last request that was served, by replica and rank.

        What TokenRing sends; Ulysses' own exchanges are not counted.
        """
        return tuple(each.sent for each in self._serving.figures)

    @property
    def exposed(self) -> tuple[float, ...]:
        """Share of the steps in which each rank waited for messages of attention, in the last request that was served.

        From 0 to 1, by replica and rank, without the first step and Ulysses' own exchanges; of a language model the
        share of all that it took to read and to answer. Empty where that cannot be seen: on GPUs, whose streams wait,
        for pictures with previews, and with fewer than two steps.
        """
        return tuple(each.exposed for each in self._serving.figures if each.exposed is not None)

    def start(self) -> None:
        """Start ranks that are not there, and wait until they have loaded; the next request would do so too.

        Raises:
            EngineError: A rank failed while it loaded; the message names its log.
        """
        self._serving.ranks.start()

    def cancel(self) -> None:
        """Cancel the running request at its next step, from any thread; without one nothing happens."""
        self._serving.ranks.cancel_running()

    def close(self) -> None:
        """End the ranks; a running request fails. May be called again."""
        self._serving.ranks.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
