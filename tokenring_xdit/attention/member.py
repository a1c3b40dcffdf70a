"""A rank among the ranks of a group: its number, its call, its waits, and what it says where one has no end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.bulletin import Notice
from tokenring_xdit.attention.connections import break_off
from tokenring_xdit.attention.transport import choice
from tokenring_xdit.attention.waits import DIRECT, Ended, GaveUp, OutOfStep, Waiter
from tokenring_xdit.attention.watch import Trouble, Watch
from tokenring_xdit.errors import AgreementError, CommunicationError, ConfigurationError, TokenRingError
from tokenring_xdit.liveness import limit, seconds_from

__all__ = [
    "AGREEMENT_TIMEOUT_VARIABLE",
    "DEFAULT_GROUP_TIMEOUT",
    "Member",
    "agreement_timeout",
    "check_environment",
    "failing_together",
    "in_words",
]

log = logging.getLogger(__name__)

AGREEMENT_TIMEOUT_VARIABLE = "TOKENRING_AGREEMENT_TIMEOUT"
"""Environment variable: seconds to wait for a rank that runs but does not come, once ranks have agreed on a call."""

_DEFAULT_AGREEMENT_TIMEOUT = 120.0

DEFAULT_GROUP_TIMEOUT = timedelta(minutes=30)

_PATIENCE = 3.0
"""Seconds in which a rank whose connection broke is found to be gone, or others tell what happened."""

_TELLING = 1.0
"""Seconds in which the other ranks learn of a failure before it is raised."""


class Member:
    """This process as one of the ranks of a group.

    Attributes:
        process_group: The group.
        rank: This process's rank in the group.
        world_size: Number of ranks in the group.
        peers: Global rank of each rank of the group.
        members: The same.
        names: What to call each rank of the group.
        key: Name of the group, the same on all ranks.
        call: Number of this rank's call, counted from 1; it distinguishes the messages of calls.
        waiting: What the caller waits for, a new tuple for each wait; ``None`` for nothing.
        agreeing: Whether the ranks compare their calls.
        needs_all: Whether every rank has to come to what is waited for.
        seconds_waited: What the caller has waited for transfers so far, where the host waits.
    """

    section = False

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.process_group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self.peers = dist.get_process_group_ranks(group)
        self.members = tuple(self.peers)
        self.names = [_name(rank, peer) for rank, peer in enumerate(self.peers)]
        self.call = 0
        self.waiting: tuple[Any, ...] | None = None
        self.agreeing = self.needs_all = False
        self.seconds_waited = 0.0
        self._waiter = Waiter()
        self._control: dist.ProcessGroup | None = None
        self._settled = False  # whether the ranks have agreed on something
        self._broken: str | None = None
        self._problem: Trouble | None = None
        options = group._get_backend(group._device_types[0]).options
        self._own_timeout: timedelta | None = getattr(options, "_timeout", None)  # not every backend has one
        self._watch: Watch | None = None
        self.key = str(group.group_name)
        if self.world_size > 1:
            self._watch = Watch.current()
            self.key = self._watch.new_key(group.group_name)
            self._watch.join(self)

    def begin(self) -> None:
        """Count a call of this rank, whatever becomes of it.

        Raises:
            CommunicationError: An earlier call on this group failed.
        """
        if self._problem is not None and self._broken is None:  # found between two calls
            self.fail(self._problem.sentence)
        if self._broken is not None:
            raise CommunicationError(
                f"an earlier attention call on this process group failed: {self._broken}. Start all ranks "
                "again, or call attention on a new group"
            )
        self.call += 1

    def fail(self, reason: str, *, tell: bool = True, refused: bool = False) -> None:
        """Give this group up: close its channels, refuse further calls, and tell the other ranks why.

        On NCCL the communicators are aborted.

        Args:
            reason: A sentence that names the rank at fault.
            tell: Whether the others do not know.
            refused: Whether a rank refused its call, and nothing broke.
        """
        if self._broken is None:
            self._broken = reason
            if tell:
                self._publish(reason, refused=refused)
        self.waiting, self.agreeing, self.needs_all = None, False, False
        self._waiter.end()
        self.break_off()
        self._close()

    def failure(self, doing: str, error: BaseException, missing: Sequence[int] = ()) -> TokenRingError:
        """Give this group up after a wait that failed, and return what to raise: it names the rank at fault.

        Args:
            doing: What this rank did, as in ``waited for block Q[1]``.
            error: What torch said, or :class:`Ended`.
            missing: Ranks of the group that did not come, where that is known.
        """
        text = str(error)
        late = isinstance(error, Ended) or "timed out" in text.lower()
        problem = self._problem
        if problem is None and self._watch is not None:
            among = [self.members[rank] for rank in missing] or None
            problem = self._watch.problem_of(self, patience=0.0 if late else _PATIENCE, among=among)
        mine = f"rank {self.names[self.rank]} {doing}"
        if problem is not None:
            message = f"{problem.sentence}: {mine}"
        elif isinstance(error, OutOfStep):
            message, text = f"the ranks of this group are not at the same call: {text}: {mine}", ""
        elif missing and late:
            one = len(missing) == 1
            who = ", ".join(self._described(rank) for rank in missing)
            message = (
                f"rank {who} did not come within {self.patience():g} s, though "
                f"{'its process runs' if one else 'their processes run'}: {mine}. Raise "
                f"{AGREEMENT_TIMEOUT_VARIABLE} if ranks are only slow"
            )
        elif missing:
            who = ", ".join(self._described(rank) for rank in missing)
            message = f"rank {who} cannot be reached: the connection broke, for an unknown reason: {mine}"
        elif late:
            message = f"{mine} for {self.patience():g} s, while all ranks run"
        elif isinstance(error, GaveUp):
            message = f"{self.gpu_gave_up()}: {mine}"
        else:
            message = f"{mine}, and the connection broke"
        refused = problem is not None and problem.refused
        self.fail(problem.sentence if problem is not None else message, refused=refused)
        if refused:
            return AgreementError(f"{message}, so this group was closed")
        said = f". torch.distributed says: {text.partition('. This is typically')[0]}" if text else ""
        return CommunicationError(message + said)

    def gpu_gave_up(self) -> str:
        """What to say of this rank's GPU where nothing is known of the others but that they run."""
        return (
            f"the GPU of rank {self.names[self.rank]} gave up, as it does if another rank does not arrive within "
            f"{self.patience():g} s (raise {AGREEMENT_TIMEOUT_VARIABLE} if ranks are only slow)"
        )

    def lost(self) -> bool:
        """Whether a rank is gone, stopped or has failed, for which a GPU may have waited until it gave up."""
        if self._problem is None and self._watch is not None:
            self._problem = self._watch.problem_of(self, patience=_PATIENCE)
        return self._problem is not None

    def end(self, problem: Trouble) -> None:
        """End the wait that is under way, from the thread of the watch."""
        self._problem = self._problem or problem
        self._waiter.end()
        self.break_off()
        self._abort()

    @property
    def space(self) -> str | None:
        """What this process has in common with those that it sees, where that is known."""
        return self._watch.space if self._watch is not None else None

    def patience(self) -> float:
        """For how many seconds to wait for a rank that runs."""
        return self._bound().total_seconds()

    def wait_here(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers of at most ``size`` bytes each, whose waits end by themselves once the watch says so.

        Raises:
            Broken: There is no end to wait for.
            RuntimeError: From torch: one failed.
        """
        began = time.perf_counter()
        self.waiting = (works,)
        for work in works:
            work.wait()
        self.waiting = None
        self.seconds_waited += time.perf_counter() - began

    def wait_aside(self, works: Sequence[Handle], size: int) -> None:
        """Wait for transfers as :meth:`wait_here`, for large ones in a thread that is left behind at the end."""
        if size <= DIRECT:
            self.wait_here(works, size)
            return
        began = time.perf_counter()
        self.waiting = (works,)
        self._waiter.call(lambda: [work.wait() for work in works], self.patience())
        self.waiting = None
        self.seconds_waited += time.perf_counter() - began

    def break_off(self) -> None:
        """Make every transfer that is under way on gloo fail, here and at the peers, for threads that wait for one."""
        for group in [*self._breakable(), *([self._control] if self._control is not None else [])]:
            break_off(group)

    def _breakable(self) -> list[dist.ProcessGroup]:
        """Groups whose transfers can be broken off."""
        return []

    def _close(self) -> None:
        """Close what is left, once nobody waits."""

    def _abort(self) -> None:
        """End what is not on gloo."""

    def _bound(self) -> timedelta:
        """How long to wait for a rank that runs: at first for slow starters as well."""
        own = self._own_timeout or DEFAULT_GROUP_TIMEOUT
        return min(own, agreement_timeout()) if self._settled else own

    def _publish(self, sentence: str, *, call: int | None = None, refused: bool = False) -> None:
        if self._watch is not None:
            notice = Notice(self.peers[self.rank], sentence, self.key, self.members, call, refused=refused)
            self._watch.bulletin.publish(notice)
            self._watch.bulletin.flush(_TELLING)

    def _described(self, peer: int) -> str:
        where = self._watch.where(self.peers[peer]) if self._watch is not None else None
        return f"{self.names[peer]} ({where})" if where else self.names[peer]


def _name(rank: int, peer: int) -> str:
    """What to call a rank of a group."""
    return str(peer) if rank == peer else f"{peer} (rank {rank} of its group)"


def in_words(error: BaseException) -> str:
    """An error in a line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a broken __str__ of the caller's
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_environment() -> None:
    """Look at what the environment sets.

    Raises:
        ConfigurationError: One is no positive number, or no transport.
    """
    choice.check_environment()
    limit()
    seconds_from(AGREEMENT_TIMEOUT_VARIABLE, _DEFAULT_AGREEMENT_TIMEOUT)


def agreement_timeout() -> timedelta:
    """How long to wait for a rank that runs, as the environment says."""
    try:
        return timedelta(seconds=seconds_from(AGREEMENT_TIMEOUT_VARIABLE, _DEFAULT_AGREEMENT_TIMEOUT))
    except ConfigurationError:  # the call says so, to all ranks
        return timedelta(seconds=_DEFAULT_AGREEMENT_TIMEOUT)


@contextmanager
def failing_together(group: Member, doing: str) -> Iterator[None]:
    """Tell the other ranks of what only this one raises, between the calls that raise on all ranks alike."""
    try:
        yield
    except TokenRingError:
        raise  # told already
    except BaseException as error:
        if group.world_size > 1:
            group.fail(f"rank {group.names[group.rank]} failed {doing}: {in_words(error)}")
        raise
