"""The worlds of an engine, from its side: started, spoken to, and surely ended."""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Any

from tokenring_xdit.pipelines.messages import Setup
from tokenring_xdit.workers.environment import local_environment
from tokenring_xdit.workers.messages import cancel, pack
from tokenring_xdit.workers.process import Inbox, RankProcess, Rendezvous

__all__ = ["Fleet", "World"]

log = logging.getLogger(__name__)

_SECONDS_TO_STOP = 5.0
"""How long a rank that was told to end gets before it is killed."""


class World:
    """Ranks that serve a request together.

    Attributes:
        replica: Its number among the engine's worlds.
        ranks: Its ranks.
    """

    def __init__(self, replica: int, ranks: tuple[RankProcess, ...]) -> None:
        self.replica = replica
        self.ranks = ranks

    @property
    def died(self) -> bool:
        """Whether a rank has ended."""
        return any(rank.process.poll() is not None for rank in self.ranks)

    def send(self, message: Any) -> None:
        """Tell all ranks."""
        packed = pack(message)
        for rank in self.ranks:
            rank.send(packed)

    def cancel(self, number: int) -> None:
        """Have all ranks give a request up together; they agree on what the first one says."""
        self.ranks[0].send(cancel(number))

    def hang_up(self) -> None:
        """Let all ranks end."""
        for rank in self.ranks:
            rank.hang_up()

    def stop(self, *, kill: bool = False) -> None:
        """End all processes.

        Args:
            kill: Do not give them time.
        """
        if kill:
            for rank in self.ranks:
                rank.process.kill()
        self.hang_up()
        for rank in self.ranks:
            rank.wait(_SECONDS_TO_STOP)


class Fleet:
    """All worlds of an engine.

    Args:
        replicas: Number of worlds.
        ranks: Ranks of each.
        setup: What a world loads.
    """

    def __init__(self, replicas: int, ranks: int, setup: Setup) -> None:
        self.inbox: Inbox = queue.SimpleQueue()
        self.worlds: list[World | None] = [None] * replicas
        self._ranks = ranks
        self._setup = setup
        self._owner = os.getpid()
        self._closed = False
        self._changing = threading.Lock()

    @property
    def here(self) -> bool:
        """Whether this is the process that started the ranks, and not a fork of it."""
        return os.getpid() == self._owner

    def start_missing(self) -> list[World]:
        """Start the worlds that are not there, or not whole; they load their model meanwhile."""
        for world in self.worlds:
            if world is not None and world.died:
                log.warning("ranks have died while they had nothing to do: starting them again")
                self.drop(world)
        with self._changing:
            missing = [] if self._closed else [replica for replica, known in enumerate(self.worlds) if known is None]
            return [self._start(replica) for replica in missing]

    def _start(self, replica: int) -> World:
        total, first = self._ranks * len(self.worlds), self._ranks * replica
        ranks: list[RankProcess] = []
        rendezvous = Rendezvous()
        try:
            for rank in range(self._ranks):
                where = rendezvous.init_method
                environment = local_environment(rank, self._ranks, where, first=first, total=total)
                ranks.append(
                    RankProcess(rank, "tokenring_xdit.pipelines.engine_rank", environment, self.inbox, rendezvous)
                )
        finally:
            rendezvous.close()
            world = self.worlds[replica] = World(replica, tuple(ranks))  # also what was started when it fails
        world.send(self._setup)
        return world

    def drop(self, world: World) -> None:
        """Kill a world that cannot go on; the next start makes it anew."""
        with self._changing:
            if self.worlds[world.replica] is world:
                self.worlds[world.replica] = None
        world.stop(kill=True)

    def drop_all(self) -> None:
        """Kill all worlds."""
        for world in self.worlds:
            if world is not None:
                self.drop(world)

    def close(self) -> None:
        """End all processes, for good."""
        if not self.here:
            return
        with self._changing:
            self._closed = True
            worlds = [world for world in self.worlds if world is not None]
            self.worlds[:] = [None] * len(self.worlds)
        for world in worlds:
            world.hang_up()
        for world in worlds:
            world.stop()
