"""Which calls are rehearsed, captured, replayed or run as they are. Pure: no tensors, no GPU.

A rank proposes, all ranks compare proposals, and each settles on the same move. So none captures what another
replays, whatever became of the graphs of one of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from tokenring_xdit.graphs.forms import CallForm

__all__ = ["MOST_GRAPHS", "GraphMove", "GraphReport", "Ledger", "Proposal", "Sized", "settle"]

MOST_GRAPHS = 4
"""Graphs of one model that are kept: each holds the memory of a whole call."""

_REHEARSALS = 1
"""Calls of a form that run as they are before it is captured: they fill caches, open connections and choose kernels."""

_SEEN = 8
"""Forms that were rehearsed and not captured, of which something is kept."""

_ALWAYS_NEW = 6
"""Calls in a row, each of a form never seen before, after which that is said."""


class GraphMove(Enum):
    """What becomes of a call."""

    EAGER = "eager"
    REHEARSE = "rehearse"
    CAPTURE = "capture"
    REPLAY = "replay"


@dataclass(frozen=True)
class Proposal:
    """What one rank could do with a call.

    Attributes:
        digest: Digest of the call's form.
        rehearsals: Calls of that form that it has rehearsed.
        captured: Whether it has a graph of it.
        obstacle: Why it cannot be replayed; empty where it can.
    """

    digest: str
    rehearsals: int
    captured: bool
    obstacle: str

    def to_plain(self) -> tuple[str, int, bool, str]:
        """As it is sent to the other ranks."""
        return self.digest, self.rehearsals, self.captured, self.obstacle

    @classmethod
    def from_plain(cls, told: Sequence[object]) -> Proposal:
        """What was told."""
        digest, rehearsals, captured, obstacle = told
        return cls(str(digest), int(str(rehearsals)), bool(captured), str(obstacle))


def settle(proposals: Sequence[Proposal]) -> tuple[GraphMove, str]:
    """What all ranks do, and for :attr:`GraphMove.EAGER` why: the same on each, as it follows from all proposals."""
    for rank, proposal in enumerate(proposals):
        if proposal.obstacle:
            alone = any(each.obstacle != proposal.obstacle for each in proposals)
            return GraphMove.EAGER, f"{proposal.obstacle}{f' (rank {rank})' if alone else ''}"
    if len({proposal.digest for proposal in proposals}) > 1:
        return GraphMove.EAGER, "the ranks were given arguments of different forms"
    if all(proposal.captured for proposal in proposals):
        return GraphMove.REPLAY, ""
    if min(proposal.rehearsals for proposal in proposals) < _REHEARSALS:
        return GraphMove.REHEARSE, ""
    return GraphMove.CAPTURE, ""


@dataclass(frozen=True)
class GraphReport:
    """What became of the calls of a model so far.

    Attributes:
        rehearsed: Calls that ran as they are, as the first of their form.
        captured: Calls of which a graph was made.
        replayed: Calls that replayed one.
        eager: Calls that ran as they are, by the reason.
        graphs: Graphs that are kept now.
        memory_bytes: What these hold.
        dropped: Graphs that were let go: too many, or the weights have changed.
    """

    rehearsed: int = 0
    captured: int = 0
    replayed: int = 0
    eager: Mapping[str, int] = field(default_factory=dict)
    graphs: int = 0
    memory_bytes: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        said = f"{self.replayed} calls replayed, {self.captured} captured, {self.rehearsed} rehearsed"
        eager = "; ".join(f"{count} because {reason}" for reason, count in self.eager.items())
        run = f"{sum(self.eager.values())} eager" + (f" ({eager})" if eager else "")
        return f"{said}, {run}; {self.graphs} graphs hold {self.memory_bytes / 1e9:.2f} GB, {self.dropped} were dropped"


class Sized(Protocol):
    """What a ledger keeps."""

    @property
    def memory_bytes(self) -> int:
        """What it holds."""


_Kept = TypeVar("_Kept", bound=Sized)
_Prepared = TypeVar("_Prepared")


@dataclass
class _Seen(Generic[_Prepared]):
    prepared: _Prepared | None = None
    rehearsals: int = 0


class Ledger(Generic[_Kept, _Prepared]):
    """The graphs of one model on one rank, and what is known of its other calls.

    Args:
        most: Graphs that are kept; the one that was not used for longest goes first.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        self._most = most
        self._graphs: OrderedDict[CallForm, _Kept] = OrderedDict()
        self._seen: OrderedDict[CallForm, _Seen[_Prepared]] = OrderedDict()
        self._unfit: OrderedDict[CallForm, str] = OrderedDict()
        self._stamp: Hashable = None
        self._last: CallForm | None = None
        self._new_in_a_row = 0
        self._rehearsed = self._captured = self._replayed = self._dropped = 0
        self._eager: dict[str, int] = {}

    def propose(self, form: CallForm, stamp: Hashable, obstacle: str | None) -> Proposal:
        """What this rank could do with a call.

        Args:
            form: Form of the call.
            stamp: Differs where weights are others, or lie elsewhere, than before: no graph survives that.
            obstacle: Why it cannot be replayed, as far as can be seen from outside.
        """
        if stamp != self._stamp:
            self.forget()
            self._stamp = stamp
        seen = self._seen.get(form)
        return Proposal(
            digest=form.digest,
            rehearsals=0 if seen is None else seen.rehearsals,
            captured=form in self._graphs,
            obstacle=obstacle or self._unfit.get(form, ""),
        )

    def note(self, form: CallForm, move: GraphMove, reason: str) -> str | None:
        """Count a call.

        Returns:
            The message for the user, logged once.
        """
        first: str | None = None
        if move is GraphMove.EAGER:
            if reason not in self._eager:
                first = f"runs without a CUDA graph, as {reason}"
            self._eager[reason] = self._eager.get(reason, 0) + 1
        elif move is GraphMove.REHEARSE:
            self._rehearsed += 1
            self._new_in_a_row = 0 if form in self._seen else self._new_in_a_row + 1
            if self._new_in_a_row == _ALWAYS_NEW and self._last is not None:
                names = ", ".join(self._last.difference(form)) or "set of weights"
                first = (
                    f"was called {_ALWAYS_NEW} times in a row with another {names}: no CUDA graph is made of such calls"
                )
        elif move is GraphMove.CAPTURE:
            self._captured += 1
        else:
            self._replayed += 1
            self._graphs.move_to_end(form)
        if move is not GraphMove.REHEARSE:
            self._new_in_a_row = 0
        self._last = form
        return first

    def prepared(self, form: CallForm) -> _Prepared | None:
        """What was prepared for a form that is not captured."""
        seen = self._seen.get(form)
        return None if seen is None else seen.prepared

    def rehearsed(self, form: CallForm, prepared: _Prepared, *, counts: bool = True) -> None:
        """Note that a call was rehearsed.

        Args:
            form: Form of the call.
            prepared: What is kept for the next one.
            counts: Whether it counts; not where something is still to be chosen.
        """
        seen = self._seen.setdefault(form, _Seen())
        seen.prepared, seen.rehearsals = prepared, seen.rehearsals + counts
        self._seen.move_to_end(form)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def unfit(self, form: CallForm, reason: str) -> None:
        """Note that calls of a form cannot be replayed, as a rehearsal has shown."""
        self._unfit[form] = reason
        if len(self._unfit) > 8 * _SEEN:
            self._unfit.popitem(last=False)
        self._seen.pop(form, None)

    def keep(self, form: CallForm, graph: _Kept) -> None:
        """Keep a graph in the place of what was prepared for it; too many others go."""
        self._seen.pop(form, None)
        self._dropped += form in self._graphs
        self._graphs[form] = graph
        self._graphs.move_to_end(form)
        while len(self._graphs) > self._most:
            self._graphs.popitem(last=False)
            self._dropped += 1

    def graph(self, form: CallForm) -> _Kept:
        """The graph of a form that is captured."""
        return self._graphs[form]

    def forget(self) -> None:
        """Let all graphs go, and what was found out of other forms."""
        self._dropped += len(self._graphs)
        for known in (self._graphs, self._seen, self._unfit):
            known.clear()

    @property
    def report(self) -> GraphReport:
        """What became of the calls so far."""
        return GraphReport(
            rehearsed=self._rehearsed,
            captured=self._captured,
            replayed=self._replayed,
            eager=dict(self._eager),
            graphs=len(self._graphs),
            memory_bytes=sum(graph.memory_bytes for graph in self._graphs.values()),
            dropped=self._dropped,
        )
