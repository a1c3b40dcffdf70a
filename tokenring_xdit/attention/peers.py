"""What a process knows of the other ranks: which processes they are, whether they run, and when that was last heard."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.attention.bulletin import Bulletin
from tokenring_xdit.liveness import ProcessIdentity, State, process_space, siblings

__all__ = ["Peer", "Peers"]

_SIBLINGS_INTERVAL = 1.0
"""Seconds between two looks at which ranks a launcher has started."""


@dataclass
class Peer:
    """What is known of another rank.

    Attributes:
        rank: Its number in the world.
        where: Which process it is, in words.
        process: That process, where this one sees it; ``None`` on other hosts.
        beat: Its last heartbeat, of those on other hosts.
        silent: Seconds since that one, of those in which this process ran.
        stopped: Seconds for which it has been stopped, counted alike.
        gone: Since when it is gone, on the monotonic clock; ``None`` where it is not.
    """

    rank: int
    where: str
    process: ProcessIdentity | None
    beat: Any = None
    silent: float = 0.0
    stopped: float = 0.0
    gone: float | None = None


class Peers:
    """The other ranks of the world. Whoever looks holds the lock of the watch.

    Args:
        rank: This rank's number in the world.
        bulletin: Where ranks tell which processes they are.
        limit: For how many seconds a rank may be silent.

    Attributes:
        space: What this process has in common with those that it sees;
            :func:`~tokenring_xdit.liveness.process_space`.
    """

    def __init__(self, rank: int, bulletin: Bulletin, limit: Callable[[], float]) -> None:
        self.space = process_space()
        self._rank, self._bulletin, self._limit = rank, bulletin, limit
        self._known: dict[int, Peer] = {}
        self._siblings: dict[int, ProcessIdentity] = {}
        self._siblings_seen = -math.inf

    def introduce(self) -> None:
        """Tell the others which process this is."""
        try:
            start: Any = ProcessIdentity.of().start
        except (ProcessLookupError, OSError):
            start = None
        own = {"pid": os.getpid(), "start": start, "space": self.space, "host": socket.gethostname()}
        self._bulletin.put(f"process/{self._rank}", own)

    def known_among(self, ranks: Collection[int]) -> list[Peer]:
        """Those of some ranks of which something is known."""
        return [self._known[rank] for rank in ranks if rank in self._known]

    def elsewhere(self, ranks: Collection[int] | None = None) -> bool:
        """Whether one of them is on another host, as far as that is known; ``None`` asks for all."""
        peers = self._known.values() if ranks is None else self.known_among(ranks)
        return any(peer.process is None for peer in peers)

    def find(self, rank: int) -> Peer | None:
        """A rank, once it has told which process it is, or a launcher has."""
        peer = self._known.get(rank)
        told = self._bulletin.found.get(f"process/{rank}")
        if peer is None and told is None:
            peer = self._unheard(rank)
        elif peer is None and told is not None:
            here = self.space is not None and told["space"] == self.space and told["start"] is not None
            process = ProcessIdentity(told["pid"], told["start"]) if here else None
            peer = self._known[rank] = Peer(rank, f"process {told['pid']} on host {told['host']}", process)
            self._bulletin.follow(f"beat/{p.rank}" for p in self._known.values() if p.process is None)
        return peer

    def _unheard(self, rank: int) -> Peer | None:
        """A rank that did not come to a call yet, and told nothing, where the launcher says which process it is."""
        now, launched = time.monotonic(), os.environ.get("RANK") == str(self._rank) and "MASTER_PORT" in os.environ
        if launched and now - self._siblings_seen >= _SIBLINGS_INTERVAL:
            self._siblings, self._siblings_seen = siblings(), now
        process = self._siblings.get(rank)
        if process is not None:
            self._known[rank] = Peer(rank, f"process {process.pid} on host {socket.gethostname()}", process)
        return self._known.get(rank)

    def observe(self, rank: int, now: float, ran: float) -> None:
        """Look at a rank.

        Args:
            rank: Its number in the world.
            now: The time.
            ran: For how many seconds this process has run since it looked before.
        """
        peer = self.find(rank)
        if peer is None:
            return
        if peer.process is None:
            if now - self._bulletin.heard > self._limit() / 2:
                return  # the store does not answer, which says nothing of this rank
            beat = self._bulletin.found.get(f"beat/{peer.rank}")
            peer.silent = 0.0 if beat != peer.beat else peer.silent + ran
            peer.beat = beat
            return
        state = peer.process.state
        peer.stopped = peer.stopped + ran if state is State.STOPPED else 0.0
        if state is State.GONE and peer.gone is None:
            peer.gone = now
            self._bulletin.want([f"left/{peer.rank}"])
