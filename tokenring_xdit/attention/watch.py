"""Finds the rank for which nobody should wait any longer, and ends the waits.

One thread in each process looks at the ranks: those of this machine in ``/proc``, those of others by their
heartbeats in the default store; and at what ranks have told there (``bulletin.py``). What waits says so by
:attr:`Party.waiting`, which costs an assignment, and is ended by :meth:`Party.end`.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import threading
import time
import weakref
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist

from tokenring_xdit.attention.bulletin import INTERVAL, Bulletin, Notice
from tokenring_xdit.attention.peers import Peer, Peers
from tokenring_xdit.attention.waits import IDLE
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.liveness import LIMIT, limit

__all__ = ["Party", "Trouble", "Watch"]

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a wait may go on after a rank has gone: it may have ended well, and owe nothing to anybody."""

SHORT_GRACE = 1.5
"""The same where all ranks have to come."""

SECTION_GRACE = 3.0
"""Seconds in which all ranks may raise by themselves what one of them raised, before they are stopped."""

_TELLING = 0.6
"""Seconds until what a rank has told before it ended is read here."""

_LAST_CALLS = 1.0
"""Seconds for what a process still has to tell when it ends."""


@dataclass(frozen=True)
class Trouble:
    """Why a wait has no end.

    Attributes:
        sentence: In words, beginning with the rank.
        since: When this process first knew, on the monotonic clock.
        grace: Seconds for a wait to end by itself.
        refused: Whether the rank refused a call, and nothing broke.
    """

    sentence: str
    since: float
    grace: float
    refused: bool = False


class Party(Protocol):
    """What waits for other ranks: a group, or a guarded section.

    Attributes:
        key: Its name, the same on all ranks.
        members: Global ranks.
        call: Number of the call, or of the section, that it is in.
        waiting: What the caller waits for now, a new object for each wait; ``None`` for nothing.
        agreeing: Whether the ranks compare their calls, and so hear of a refusal anyhow.
        needs_all: Whether every rank has to come to what is waited for.
        section: Whether it is a guarded section.
    """

    key: str
    members: tuple[int, ...]
    call: int
    waiting: Any
    agreeing: bool
    needs_all: bool
    section: bool

    def end(self, problem: Trouble) -> None:
        """End the wait; called by the thread of the watch."""


class Watch:
    """The watch of one process over the ranks of its world."""

    _current: Watch | None = None
    _making = threading.Lock()

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self._world = weakref.ref(dist.distributed_c10d._get_default_group())
        self.bulletin = Bulletin()
        self._peers = Peers(self.rank, self.bulletin, _limit)
        self._parties: weakref.WeakSet[Any] = weakref.WeakSet()
        self._seen: weakref.WeakKeyDictionary[Any, tuple[Any, float]] = weakref.WeakKeyDictionary()
        self._told: list[tuple[float, Notice]] = []
        self._keys: dict[str, int] = {}
        self._looked = time.monotonic()
        self._beats, self._beaten = 0, 0.0
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._peers.introduce()
        self._thread = threading.Thread(target=self._run, name="tokenring-watch", daemon=True)
        self._thread.start()

    @classmethod
    def current(cls) -> Watch:
        """The one for the default group, begun if there is none."""
        with cls._making:
            watch = cls._current
            if watch is None or watch._world() is not dist.distributed_c10d._get_default_group():
                if watch is not None:
                    watch._stop.set()
                watch = cls._current = cls()
            return watch

    @classmethod
    def known(cls) -> Watch | None:
        """The one for the default group, if there is one."""
        watch = cls._current
        if watch is None or not dist.is_initialized():
            return None
        return watch if watch._world() is dist.distributed_c10d._get_default_group() else None

    @property
    def space(self) -> str | None:
        """What it has in common with the processes that it sees: :func:`~tokenring_xdit.liveness.process_space`."""
        return self._peers.space

    def give_up(self, sentence: str, scope: Iterable[int]) -> None:
        """Tell the ranks in ``scope`` that this one takes no part any more in what they do together."""
        self.bulletin.publish(Notice(self.rank, sentence, None, tuple(scope)))
        self.bulletin.flush(_LAST_CALLS)

    def join(self, party: Party) -> None:
        """Look after the waits of a group or a section."""
        with self._lock:
            self._parties.add(party)
            others = [rank for rank in party.members if rank != self.rank]
            self.bulletin.want(f"process/{rank}" for rank in others)

    def new_key(self, name: str) -> str:
        """A name for a group that torch calls so; one that all ranks forgot and make again gets another."""
        number = self._keys[name] = self._keys.get(name, 0) + 1
        return f"{name}/{number}"

    def knows_refusal(self, party: Party) -> bool:
        """Whether a rank has told that it refuses the call that this one is about to make."""
        if not self._told:
            return False
        return any(n.group == party.key and n.call == party.call for _, n in self._told)

    def parties_with(self, members: Iterable[int]) -> list[Party]:
        """Who else waits for some of these ranks."""
        with self._lock:
            return [party for party in self._parties if not set(members).isdisjoint(party.members)]

    def where(self, rank: int) -> str | None:
        """Which process a rank is, in words; ``None`` while that is not known."""
        peer = self._peers.find(rank)
        return peer.where if peer else None

    def problem_of(
        self, party: Party, *, patience: float = 0.0, among: Collection[int] | None = None
    ) -> Trouble | None:
        """Why a group's ranks should not be waited for; looks for it for ``patience`` seconds at most.

        A process whose connection has just been closed is not gone at once, nor has everybody told what happened.

        Args:
            party: Who waits.
            patience: Seconds.
            among: Global ranks that are waited for, where others have come: they may have ended since.
        """
        end = time.monotonic() + patience
        while True:
            problem = self.look(party, among)
            if problem is not None or time.monotonic() >= end:
                return problem
            self.bulletin.hurry(1)
            time.sleep(0.02)
            self.bulletin.hurry(-1)

    def look(self, party: Party | None = None, among: Collection[int] | None = None) -> Trouble | None:
        """Look at all ranks now, and return what is wrong for ``party``, as :meth:`problem_of` does."""
        with self._lock:
            now = time.monotonic()
            ran = min(now - self._looked, 2 * INTERVAL)  # less than what passed where this process was stopped itself
            self._looked = now
            # What this rank has told itself is over for it too, where it named no group.
            self._told += [(now, n) for n in self.bulletin.news() if n.rank != self.rank or n.group is None]
            for rank in {rank for each in self._parties for rank in each.members} - {self.rank}:
                self._peers.observe(rank, now, ran)
            return self._problem(party, among) if party is not None else None

    def close(self) -> None:
        """Tell that this process ends well, and end the threads."""
        self.bulletin.put(f"left/{self.rank}", {_place(party): party.call for party in [*self._parties]})
        self._stop.set()
        self.bulletin.close(_LAST_CALLS)
        self._thread.join(_LAST_CALLS)

    # -- what is known -----------------------------------------------------------------------------------------

    def _problem(self, party: Party, among: Collection[int] | None = None) -> Trouble | None:
        members, longest, now = set(party.members), _limit(), time.monotonic()
        for since, notice in self._told:
            if notice.section != party.section and notice.group is not None:
                continue
            if notice.group not in (None, party.key) or not members <= set(notice.scope):
                continue
            if notice.call is None:
                return Trouble(notice.sentence, since, 0.0, notice.refused)
            if notice.call == party.call and not party.agreeing:
                return Trouble(notice.sentence, since, SECTION_GRACE if party.section else 0.0, notice.refused)
        awaited = party.members if among is None else among
        peers = self._peers.known_among(awaited)
        gone = sorted(peer.gone for peer in peers if peer.gone is not None)
        # It may have ended because of another one, and have told so.
        unclear = bool(gone) and now - gone[-1] < _TELLING
        for peer in sorted(peers, key=lambda peer: peer.gone or now):
            if peer.gone is not None and not unclear and self._owes(peer, party):
                grace = SHORT_GRACE if party.needs_all else GRACE
                return Trouble(f"rank {peer.rank} is gone ({peer.where})", peer.gone, min(grace, longest / 2))
            if peer.stopped >= longest:
                return Trouble(f"rank {peer.rank} is stopped ({peer.where}), for {longest:g} s", now - longest, 0.0)
            if peer.silent >= longest:
                return Trouble(
                    f"rank {peer.rank} was not heard of for {longest:g} s ({peer.where})", now - longest, 0.0
                )
        if self._peers.elsewhere(party.members) and now - self.bulletin.heard >= longest:
            return Trouble(
                f"the store of torch.distributed has not answered for {longest:g} s: the rank or launcher that keeps "
                "it, mostly on the host of rank 0, is gone, stopped or cut off",
                now - longest,
                0.0,
            )
        return None

    def _owes(self, peer: Peer, party: Party) -> bool:
        """Whether a rank that is gone did not do its part; one that ended well has told how far it came."""
        left = self.bulletin.found.get(f"left/{peer.rank}")
        return left is None or left.get(_place(party), -1) < party.call

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(min(INTERVAL, _limit() / 8)):
            group = self._world()
            if group is None or group is not dist.distributed_c10d._world.default_pg:
                break
            del group
            try:
                self._beat()
                self.look()
                for party in [*self._parties]:
                    self._judge(party)
            except Exception:  # whatever it is: without a watch waits have no end
                log.warning("the watch over the other ranks failed once, and goes on", exc_info=True)
        self.bulletin.close(_LAST_CALLS)

    def _beat(self) -> None:
        """Show other hosts that this process runs."""
        now = time.monotonic()
        if self._peers.elsewhere() and now - self._beaten >= _limit() / 6:
            self._beats, self._beaten = self._beats + 1, now
            self.bulletin.put(f"beat/{self.rank}", self._beats)

    def _judge(self, party: Party) -> None:
        waiting, now = party.waiting, time.monotonic()
        with self._lock:
            before, since = self._seen.get(party, (None, now))
            if waiting is not before:
                before, since = waiting, now
            self._seen[party] = before, since
            problem = None if waiting is None else self._problem(party)
        if problem is not None and now - max(since, problem.since) >= problem.grace and party.waiting is waiting:
            party.end(problem)


def _place(party: Party) -> str:
    """What a party's calls are counted under: a guarded section counts its own."""
    return f"{party.key} guarded" if party.section else party.key


def _limit() -> float:
    try:
        return limit()
    except ConfigurationError:  # the call says so
        return LIMIT


@atexit.register
def _leave() -> None:
    if Watch._current is not None:
        Watch._current.close()
    if any(t.name.startswith("tokenring-") and t.name != IDLE for t in threading.enumerate()):
        _let_threads_rest()


def _let_threads_rest() -> None:
    """Keep a thread that was left behind in C++ from aborting the process that ends.

    When it comes back after the interpreter has gone, CPython before 3.14 ends it by ``pthread_exit``, which C++ takes
    for an exception that nobody handles. It waits instead, and the process ends with its own exit code.
    """
    with suppress(OSError, AttributeError):  # another C++ library
        pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)
        ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"](pause)
