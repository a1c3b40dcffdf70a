"""What a rank is in the middle of, for code that a host library calls without handing it on.

One object, so that it can be looked at. It is no ``ContextVar``, as ``torch.compile`` traces what reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenring_xdit.hosts.caches import Together
    from tokenring_xdit.hosts.layout import KeyLayout

__all__ = ["RUNNING", "Running", "decided_on_the_host", "may_be_recorded", "watching_decisions"]


@dataclass
class Running:
    """The state of this process.

    Attributes:
        layout: Which keys are real in the model call that is running; ``None`` where all are, or nobody says.
        together: Whose transformer is running on several ranks, so that caches decide by the data of all.
        kernel: The local kernel that the host library was asked for last, by the library's name for it.
        groups: Process groups that were made, by ranks and backend; states of a library share them.
        world: The world that they belong to; a process may leave one and join another.
        decisions: What was decided on the host by what is in tensors, while somebody watches; a graph would repeat it.
    """

    layout: KeyLayout | None = None
    together: Together | None = None
    kernel: Any = None
    groups: dict[Any, Any] = field(default_factory=dict)
    world: Any = None
    decisions: list[str] | None = None

    def reset(self) -> None:
        """Forget all of it."""
        for name, value in ((each.name, getattr(Running(), each.name)) for each in fields(self)):
            setattr(self, name, value)


RUNNING = Running()
"""That of this process."""


def decided_on_the_host(what: str) -> None:
    """Note that the running call depends on what is in a tensor, beyond computing with it."""
    if RUNNING.decisions is not None:
        RUNNING.decisions.append(what)


def may_be_recorded() -> bool:
    """Whether the running call is rehearsed or recorded for replays, so that the host had better not look."""
    return RUNNING.decisions is not None


@contextmanager
def watching_decisions() -> Iterator[list[str]]:
    """Inside, the list collects the arguments of :func:`decided_on_the_host`."""
    before, RUNNING.decisions = RUNNING.decisions, []
    try:
        yield RUNNING.decisions
    finally:
        RUNNING.decisions = before
