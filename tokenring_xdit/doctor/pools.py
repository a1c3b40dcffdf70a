"""The processes of a checkup: started when they are first asked, and again after a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["SOLO", "WORLD", "Ranks", "rank_variables"]

WORLD = "tokenring_xdit.doctor.rank"
"""What ranks serve that compute together."""

SOLO = "tokenring_xdit.doctor.solo"
"""What a process serves that has no other ranks."""

_PATIENCE = "30"
"""Seconds that a rank waits for another one, unless the user gives it another time."""


def rank_variables(on_gpus: bool) -> Callable[[int, int, str], dict[str, str]]:
    """The environment of ranks: none waits for long, and where they do not have a GPU each they see none.

    Args:
        on_gpus: Whether they have a GPU each.
    """

    def environment(rank: int, ranks: int, init_method: str) -> dict[str, str]:
        hidden = {} if on_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        own = local_environment(rank, ranks, init_method)
        return {**own, **hidden, AGREEMENT_TIMEOUT_VARIABLE: os.environ.get(AGREEMENT_TIMEOUT_VARIABLE, _PATIENCE)}

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
    def pool(self) -> WorkerPool:
        """The ranks.

        Raises:
            LaunchError: They could not be started.
        """
        if self._pool is None:
            self._pool = WorkerPool(self._program, self._ranks, environment=self._variables)
        return self._pool

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """Have all ranks carry out a command; see :meth:`WorkerPool.ask`.

        Raises:
            LaunchError: A rank died, failed or did not answer in time; the message names it.
        """
        try:
            return self.pool.ask(command, timeout)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(kill=error is not None)
