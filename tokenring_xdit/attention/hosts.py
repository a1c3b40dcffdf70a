"""For programs round attention, whose ranks wait for each other elsewhere too: with the same limits and names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from tokenring_xdit.attention.bulletin import Notice
from tokenring_xdit.attention.connections import break_off
from tokenring_xdit.attention.groups import RingGroup, group_of
from tokenring_xdit.attention.member import failing_together, in_words
from tokenring_xdit.attention.watch import Trouble, Watch
from tokenring_xdit.errors import CommunicationError, TokenRingError

__all__ = ["exchange", "guarded"]

_PATIENCE = 3.0

_TELLING = 1.0

_WORDS_OF_TORCH = ("gloo", "nccl", "cuda error", "connection", "timed out", "timeout", "peer")
"""In errors that may be about a rank; CUDA's are, where a GPU has waited for one."""


def exchange(group: dist.ProcessGroup | None, value: Any, what: str = "an exchange of values") -> list[Any]:
    """Give every rank of a group a small value of each; all of them call it.

    It counts as a call of the group, so it is never taken for attention, or for an exchange of something else.

    Args:
        group: The group; ``None`` is the default group.
        value: Plain data, small: numbers, texts, arrays, and lists, tuples and dictionaries of them.
        what: What is exchanged, for messages; the same on all ranks.

    Returns:
        The values in order of rank.

    Raises:
        AgreementError: A rank is at another call, or its value is no plain data; the same on every rank.
        CommunicationError: A rank is gone, is stopped, failed or did not come; the message names it.
        ConfigurationError: torch.distributed is not initialised.
    """
    ring_group = group_of(group)
    with failing_together(ring_group, f"in {what}"):
        return ring_group.exchange(value, str(what))


@contextmanager
def guarded(group: dist.ProcessGroup | None, what: str) -> Iterator[None]:
    """Round what the ranks of a group do together, such as a pipeline's call; all of them enter it alike.

    What one rank raises inside reaches the others: those that are still inside after some seconds raise
    :class:`CommunicationError`, which names that rank. Where all raise by themselves nobody is stopped. Inside, a
    rank that is gone or stopped ends this rank's waits in every group on gloo, those of other libraries too.

    Args:
        group: The group; ``None`` is the default group.
        what: What is done, for messages.

    Raises:
        CommunicationError: A rank is gone, is stopped or failed, for which this one waited; the message names it.
    """
    ring_group = group_of(group)
    if ring_group.world_size == 1:
        yield
        return
    section = _section_of(ring_group)
    section.enter()
    try:
        yield
    except BaseException as error:
        raised = section.explain(error, what)
        if raised is error:
            raise
        raise raised from error
    finally:
        section.leave()


class Section:
    """What one rank does inside :func:`guarded`, for the watch."""

    section = True
    agreeing = False
    needs_all = False

    def __init__(self, group: RingGroup) -> None:
        self.group = group
        self.key = group.key
        self.members = group.members
        self.call = 0
        self.waiting: tuple[Any, ...] | None = None
        self._inside = 0
        self._problem: Trouble | None = None
        self._watch = Watch.current()
        self._watch.join(self)

    def enter(self) -> None:
        if self._inside == 0:
            if self._problem is not None:
                raise CommunicationError(
                    f"an earlier operation on this process group failed: {self._problem.sentence}. Start all ranks "
                    "again, or use another group"
                )
            self.call += 1
            self.waiting = (self.call,)
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1
        if self._inside == 0:
            self.waiting = None

    def explain(self, error: BaseException, what: str) -> BaseException:
        """What to raise for an error inside; the others get a message, if they cannot know."""
        if self._inside > 1:
            return error
        name = self.group.names[self.group.rank]
        raised = error
        if isinstance(error, RuntimeError) and not isinstance(error, TokenRingError):
            problem = self._problem or (self._watch.problem_of(self, patience=_PATIENCE) if _of_torch(error) else None)
            if problem is not None:
                raised = CommunicationError(
                    f"{problem.sentence}: rank {name} waited for it in {what}. torch says: {error}"
                )
            elif self.group.transport.gave_up(error):
                raised = CommunicationError(f"{self.group.gpu_gave_up()}: it waited in {what}. torch says: {error}")
        sentence = (
            str(raised)
            if isinstance(raised, CommunicationError)
            else f"rank {name} failed in {what}: {in_words(error)}"
        )
        notice = Notice(self._watch.rank, sentence, self.key, self.members, self.call, section=True)
        self._watch.bulletin.publish(notice)
        self._watch.bulletin.flush(_TELLING)
        return raised

    def end(self, problem: Trouble) -> None:
        """End every wait of this process in a group on gloo."""
        self._problem = self._problem or problem
        # Those of now: once its wait has ended, the program may begin another world.
        groups = [*dist.distributed_c10d._world.pg_map]
        for party in self._watch.parties_with(self.members):
            if not party.section:
                party.end(problem)  # so that it knows why
        for group in groups:
            break_off(group)


def _of_torch(error: RuntimeError) -> bool:
    """Whether an error may be about a connection."""
    return any(word in str(error).lower() for word in _WORDS_OF_TORCH)


def _section_of(group: RingGroup) -> Section:
    if Section not in group.kept:
        group.kept[Section] = Section(group)
    section: Section = group.kept[Section]
    return section
