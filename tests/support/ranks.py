"""Worker ranks that live as long as the test session.

Importing xfuser takes ten seconds, so ranks are not started for each test: the pool keeps its
processes and gives each job a fresh world of the size it asks for, over gloo or, on GPUs, over NCCL.
Real processes, real sockets.
"""

from __future__ import annotations

import functools
import math
import os
import queue
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tests.support import rank
from tokenring_xdit.workers.attempt import carry_through
from tokenring_xdit.workers.messages import Answer, Silent, Stopped, Task
from tokenring_xdit.workers.pool import WorkerPool
from tokenring_xdit.workers.starting import Inbox
from tokenring_xdit.workers.state import Limits, RequestAttempt
from tokenring_xdit.workers.worker import hear

_ROOT = str(Path(__file__).parents[2])

Made = TypeVar("Made")


class RankFailure(Exception):
    """A job raised on some ranks.

    Attributes:
        errors: The exception of each rank, ``None`` where the rank finished.
    """

    def __init__(self, errors: list[BaseException | None], traces: list[str]) -> None:
        super().__init__("\n".join(f"[rank {r}] {t}" for r, t in enumerate(traces) if t))
        self.errors = errors


class RankPool:
    """Processes that run one function at a time as the ranks of a world.

    Args:
        backend: How they meet: ``gloo``, or ``nccl`` with a GPU each, which several may share.
    """

    def __init__(self, backend: str = "gloo") -> None:
        self._backend = backend
        self._store = dist.TCPStore(rank.HOST, 0, is_master=True, wait_for_workers=False)
        self._inbox: Inbox = queue.SimpleQueue()
        self._pools: list[WorkerPool] = []  # of one rank each, as worlds differ in size
        self._jobs = 0

    def run(self, ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 300.0) -> list[Any]:
        """Call ``function(*args)`` on ``ranks`` ranks at once.

        Args:
            ranks: Size of the world that the function finds initialised.
            function: A function of a module that the workers can import.
            *args: Its arguments, pickled.
            timeout: Seconds after which a hanging rank is killed and the test fails.

        Returns:
            What each rank returned.

        Raises:
            RankFailure: Some rank raised.
            TimeoutError: Some rank did not end.
        """
        while len(self._pools) < ranks:
            self._pools.append(self._start(len(self._pools)))
        self._jobs += 1
        pools = self._pools[:ranks]
        for pool in pools:
            pool.send(Task(self._jobs, rank.Job(f"job{self._jobs}", ranks, function, args)))
        team = [pool.workers[0] for pool in pools]
        # Ranks that are stopped or gone are the tests' own doing; what the others say of them is what is tested.
        attempt = RequestAttempt(self._jobs, [[worker] for worker in team], Limits(timeout, math.inf), time.monotonic())
        carry_through(attempt, functools.partial(hear, self._inbox))
        outcomes = [attempt.outcomes[worker] for worker in team]
        if not all(isinstance(outcome, Answer) for outcome in outcomes):
            self.close()
        hanging = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, (Silent, Stopped))]
        if hanging:
            raise TimeoutError(f"ranks {hanging} did not end within {timeout} s")
        died = rank.Result(None, RuntimeError("the process died"), "the process died")
        results = [outcome.content if isinstance(outcome, Answer) else died for outcome in outcomes]
        if any(result.error is not None for result in results):
            raise RankFailure([result.error for result in results], [result.trace for result in results])
        return [result.value for result in results]

    def close(self) -> None:
        """End all processes."""
        for pool in self._pools:
            pool.close(kill=True)
        self._pools.clear()

    def _start(self, index: int) -> WorkerPool:
        own = {rank.BACKEND: self._backend, rank.PORT: str(self._store.port), rank.INDEX: str(index)}
        path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))

        def environment(*_: Any) -> dict[str, str]:
            return {**os.environ, **own, "PYTHONPATH": path}

        return WorkerPool("tests.support.rank", 1, environment=environment, quiet=False, inbox=self._inbox)


def by_the_first(make: Callable[[], Made]) -> Made:
    """What the first rank makes by itself, on every rank: a reference that each would make alike, and have no core for.

    The generators of all ranks stay as they were. Ranks that met over NCCL make it each on their GPU.
    """
    if dist.get_world_size() == 1 or dist.get_backend() == "nccl":
        return make()
    parcel: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        with torch.random.fork_rng(devices=[]):
            try:
                parcel[0] = make()
            except Exception:
                parcel[1] = traceback.format_exc()
    dist.broadcast_object_list(parcel, src=0)
    made, said = parcel
    if said:
        raise RuntimeError(f"the first rank failed by itself: {said}")
    return made  # type: ignore[no-any-return]


def rank_device() -> torch.device:
    """Where a rank of the pool computes: on its GPU where the ranks met over NCCL."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
