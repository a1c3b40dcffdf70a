"""The processes of a checkup: started when they are first asked, and again after a failure."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.messages import RankOutcome, Task
from tokenring_xdit.workers.pool import Pool, WorkerPool
from tokenring_xdit.workers.state import Event, RequestAttempt
from tokenring_xdit.workers.torchrun import TorchrunPool

__all__ = ["NODES", "PATIENCE", "SOLO", "WORLD", "Ranks", "TorchrunRanks", "rank_variables"]

WORLD = "tokenring_xdit.doctor.rank"
"""What ranks serve that compute together."""

SOLO = "tokenring_xdit.doctor.solo"
"""What a process serves that has no other ranks."""

NODES = "tokenring_xdit.doctor.node_rank"
"""What ranks serve that torchrun started, on one node or several."""

_START = 120.0
"""Seconds in which ranks start: eight of them may read torch from a disk that is slow."""

PATIENCE = "30"
"""Seconds that a rank waits for another one, unless the user gives it another time."""


def rank_variables(on_gpus: bool) -> Callable[[int, int, str], dict[str, str]]:
    """The environment of ranks: none waits for long, and where they do not have a GPU each they see none.

    Args:
        on_gpus: Whether they have a GPU each.
    """

    def environment(rank: int, ranks: int, init_method: str) -> dict[str, str]:
        hidden = {} if on_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        own = local_environment(rank, ranks, init_method)
        return {**own, **hidden, AGREEMENT_TIMEOUT_VARIABLE: os.environ.get(AGREEMENT_TIMEOUT_VARIABLE, PATIENCE)}

    return environment


class Ranks:
    """Ranks that are started when they are first asked, and again when they are asked after a failure.

    Args:
        program: What they serve.
        ranks: How many.
        on_gpus: Whether they have a GPU each.
    """

    def __init__(self, program: str, ranks: int, *, on_gpus: bool) -> None:
        self._program, self._ranks, self._variables = program, ranks, rank_variables(on_gpus)
        self._pool: WorkerPool | None = None

    @property
    def pool(self) -> Pool:
        """The ranks.

        Raises:
            LaunchError: They could not be started.
        """
        if self._pool is None:
            self._pool = WorkerPool(self._program, self._ranks, environment=self._variables)
        return self._pool

    @property
    def lost(self) -> str | None:
        """Why nothing can be asked any more; ``None`` while that is not so."""
        return None

    @property
    def lent(self) -> Pool | None:
        """The ranks for a sweep; ``None`` where it starts its own."""
        return None

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """Have all ranks carry out a command, where they are not there yet once they have started.

        Args:
            command: The command.
            timeout: Seconds for it, without what it takes them to start.

        Raises:
            LaunchError: A rank died, failed or did not answer in time; the message names it.
        """
        starting = 0.0 if self._pool is not None or self.lent is not None else _START
        try:
            return self.pool.ask(command, starting + timeout)
        except LaunchError:
            self.forget()
            raise

    def end(self, *, kill: bool = False) -> None:
        """End them, if they have been started."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(kill=kill)

    def forget(self) -> None:
        """Have others started when they are asked next: these have ended."""
        self._pool = None

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.end(kill=error is not None)


class TorchrunRanks(Ranks):
    """Ranks that torchrun started, this process being rank 0: after a failure there are no others.

    Args:
        pool: Those that serve :data:`NODES`, in whose ``with`` block this is used.
    """

    def __init__(self, pool: TorchrunPool) -> None:
        super().__init__(NODES, pool.ranks, on_gpus=False)
        self._lent = _LentPool(pool)

    @property
    def pool(self) -> Pool:
        """The ranks."""
        return self._lent

    @property
    def lost(self) -> str | None:
        """Why nothing can be asked any more; ``None`` while that is not so."""
        return self._lent.lost

    @property
    def lent(self) -> Pool | None:
        """The ranks for a sweep."""
        return self._lent

    def end(self, *, kill: bool = False) -> None:
        """Nothing: they serve what comes next."""

    def forget(self) -> None:
        """Nothing: the pool knows."""


class _LentPool(Pool):
    """Ranks to use in a ``with`` block, given back at its end."""

    def __init__(self, pool: TorchrunPool) -> None:
        self._pool, self.workers = pool, pool.workers
        self.lost: str | None = None

    def ask(
        self, command: Any, timeout: float = math.inf, show: Callable[[Any], None] = lambda content: None
    ) -> list[Any]:
        """As in the base class."""
        if self.lost is not None:
            raise LaunchError(f"not tried, as the ranks that torchrun started are lost: {self.lost}")
        try:
            return self._pool.ask(command, timeout, show)
        except LaunchError as error:
            self.lost = str(error).partition("\n")[0]
            raise

    def send(self, task: Task) -> None:
        """As in the base class."""
        self._pool.send(task)

    def _ear(self, attempt: RequestAttempt[Any]) -> Callable[[float], Event[Any] | None]:
        return self._pool._ear(attempt)

    def _error(self, worker: Any, outcome: RankOutcome) -> LaunchError:
        return self._pool._error(worker, outcome)

    def _give_up(self) -> None:
        self._pool._give_up()

    def __enter__(self) -> _LentPool:
        return self

    def __exit__(self, *_: object) -> None:
        return
