"""The replicas of an engine: started, dropped where they cannot go on, and what is said of their failures."""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
from dataclasses import dataclass
from typing import Any

from tokenring_xdit import errors
from tokenring_xdit.errors import EngineError
from tokenring_xdit.workers.blame import in_words
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.messages import Failed, Silent, Task
from tokenring_xdit.workers.output import kept_file
from tokenring_xdit.workers.pipes import Pickles
from tokenring_xdit.workers.pool import LocalStarter, WorkerPool
from tokenring_xdit.workers.starting import Inbox, Packing, StartedRank, WorldPlace, called
from tokenring_xdit.workers.state import AGREED, RequestAttempt

__all__ = ["LOADING", "LocalPlace", "ReplicaShare", "Replicas", "error_of"]

log = logging.getLogger(__name__)

LOADING = 0
"""Number of the request that is loading."""


@dataclass(frozen=True)
class ReplicaShare:
    """What one replica does of a request.

    Attributes:
        replica: Its number.
        pool: Its ranks.
        prompts: Positions of the prompts that it has.
    """

    replica: int
    pool: WorkerPool
    prompts: range = range(0)


class LocalPlace(WorldPlace):
    """Worlds on this machine, side by side.

    Args:
        count: How many.
        ranks: Ranks of each.
    """

    cluster = None

    def __init__(self, count: int, ranks: int) -> None:
        self.packing: Packing = Pickles()
        self._count, self._ranks = count, ranks

    def world(self, replica: int) -> LocalStarter:
        """As :meth:`WorldPlace.world`."""
        first, total = self._ranks * replica, self._ranks * self._count
        return LocalStarter(functools.partial(local_environment, first=first, total=total))

    def hang_up(self) -> None:
        """Nothing: processes are started at once."""

    def close(self) -> None:
        """Nothing was taken."""


class Replicas:
    """All replicas of an engine, each a world of ranks, heard in one inbox.

    Args:
        program: What their ranks serve; see :func:`tokenring_xdit.workers.loop.serve`.
        count: How many.
        ranks: Ranks of each.
        setup: The command with which they load.
        place: Where they are; this machine by default.
    """

    def __init__(self, program: str, count: int, ranks: int, setup: Any, place: WorldPlace | None = None) -> None:
        self._place = LocalPlace(count, ranks) if place is None else place
        self.packing = self._place.packing
        self.inbox: Inbox = queue.SimpleQueue()
        self._pools: list[WorkerPool | None] = [None] * count
        self._program, self._ranks = program, ranks
        self._setup = setup
        self._owner = os.getpid()
        self._closed = False
        self._changing = threading.Lock()

    @property
    def here(self) -> bool:
        """Whether this is the process that started the ranks, and not a fork of it."""
        return os.getpid() == self._owner

    @property
    def cluster(self) -> str | None:
        """Which cluster they are on; ``None`` for this machine."""
        return self._place.cluster

    @property
    def running(self) -> list[ReplicaShare]:
        """Those that are there."""
        return [ReplicaShare(replica, pool) for replica, pool in enumerate(self._pools) if pool is not None]

    def start_missing(self) -> list[ReplicaShare]:
        """Start those that are not there, or not whole; they load their model meanwhile.

        Raises:
            LaunchError: They could not be started.
        """
        for share in self.running:
            if share.pool.died:
                log.warning("ranks have died while they had nothing to do: starting them again")
                self.drop(share.pool)
        with self._changing:
            missing = [] if self._closed else [replica for replica, pool in enumerate(self._pools) if pool is None]
            for replica in missing:
                self._start(replica)
        return [share for share in self.running if share.replica in missing]

    def _start(self, replica: int) -> None:
        starter = self._place.world(replica)
        pool = self._pools[replica] = WorkerPool(self._program, self._ranks, starter=starter, inbox=self.inbox)
        pool.send(Task(LOADING, self._setup))

    def drop(self, pool: WorkerPool) -> None:
        """Kill one that cannot go on; the next start makes it anew."""
        with self._changing:
            self._pools[:] = [None if known is pool else known for known in self._pools]
        pool.close(kill=True)

    def drop_all(self) -> None:
        """Kill all of them."""
        for share in self.running:
            self.drop(share.pool)

    def close(self) -> None:
        """End all processes, for good."""
        if not self.here:
            return
        self._place.hang_up()
        with self._changing:
            self._closed = True
            pools = [share.pool for share in self.running]
            self._pools[:] = [None] * len(self._pools)
        for pool in pools:
            pool.hang_up()
        for pool in pools:
            pool.close()
        self._place.close()


def error_of(attempt: RequestAttempt[StartedRank], team: int, share: ReplicaShare) -> Exception:
    """What is raised for a replica that failed; what the rank to blame has printed is kept, as the message says."""
    worker = attempt.culprit(team)
    outcome = attempt.failures(team)[worker]
    if isinstance(outcome, Failed) and outcome.kind in AGREED:  # which says what to do otherwise
        return errors.named(outcome.kind, outcome.message)
    printed = worker.printed() + ((outcome.traceback or "") if isinstance(outcome, Failed) else "")
    file = kept_file(f"replica{share.replica}-rank{worker.rank}.log", printed)
    if isinstance(outcome, Failed) and outcome.phase is not None:
        how = f"failed {outcome.phase.value}: {outcome.kind}: {outcome.message}"
    else:
        how = in_words(outcome, worker.pid)
    return EngineError(f"{_who(attempt, team, share)} {how}\n(log: {file})")


def _who(attempt: RequestAttempt[StartedRank], team: int, share: ReplicaShare) -> str:
    of_replica = f" of replica {share.replica}" if share.replica else ""
    ended = {worker: attempt.outcomes[worker] for worker in attempt.teams[team]} | attempt.failures(team)
    worker = attempt.culprit(team)
    silent = sorted(each.rank for each, outcome in ended.items() if outcome == ended[worker])
    if isinstance(ended[worker], Silent) and len(silent) > 1:
        return f"ranks {', '.join(map(str, silent))}{of_replica}"
    kinds = {outcome.kind if isinstance(outcome, Failed) else None for outcome in ended.values()}
    if len(ended) > 1 and len(kinds) == 1 and None not in kinds:
        return f"all ranks{of_replica} failed alike; {called(worker)}"
    return f"{called(worker)}{of_replica}"
