"""The calls of one model on one rank, replayed where they can be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention.auto import planned_for_replays, trial_calls
from tokenring_xdit.errors import TokenRingError, UnsupportedError
from tokenring_xdit.graphs.forms import CallForm, Described, describe, tensors_replaced
from tokenring_xdit.graphs.ledger import MOST_GRAPHS, GraphMove, GraphReport, Ledger, Proposal, settle
from tokenring_xdit.graphs.reads import OutsideTensors
from tokenring_xdit.graphs.recorder import Recorder, Recording

__all__ = ["GraphedCalls"]

log = logging.getLogger("tokenring_xdit.graphs")

_LIMITS = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How far the first replay of a graph may be from the call itself, relative to its norm."""

_Call = Callable[..., Any]


@dataclass(frozen=True)
class _Buffers:
    """Memory that a graph reads its arguments from.

    Attributes:
        tensors: One for each tensor of the form.
        arguments: The arguments of the call, with those in the place of the caller's.
    """

    tensors: tuple[Tensor, ...]
    arguments: Mapping[str, Any]

    @classmethod
    def like(cls, described: Described, arguments: Mapping[str, Any]) -> _Buffers:
        with torch.inference_mode(False):  # so that whoever writes to them is noticed, and any later call may
            made = {id(t): torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in described.tensors}
        named = {name: tensors_replaced(value, lambda t: made[id(t)]) for name, value in arguments.items()}
        return cls(tuple(made.values()), named)

    def fill(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """Copy a call's tensors; the answer differs from :attr:`versions` once somebody else has written."""
        with torch.no_grad():
            for mine, theirs in zip(self.tensors, tensors, strict=True):
                mine.copy_(theirs)
        return self.versions

    def clear(self) -> None:
        """Leave nothing of a call in them."""
        with torch.no_grad():
            for mine in self.tensors:
                mine.zero_()

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(tensor._version for tensor in self.tensors)


@dataclass(frozen=True)
class _Graph:
    """A call that is replayed, with the memory that it reads: that of its arguments, and what else it was found to."""

    recording: Recording
    buffers: _Buffers
    others: Sequence[Tensor]

    @property
    def memory_bytes(self) -> int:
        return self.recording.memory_bytes + sum(tensor.nbytes for tensor in self.buffers.tensors)


class GraphedCalls:
    """Calls of one model, which all its ranks make at the same time, with arguments of the same form.

    For each call a rank first says what it could do (:meth:`propose`), is then told what all say (:meth:`settle`),
    and makes it (:meth:`__call__`). So the ranks have agreed before anything is captured or replayed.

    Args:
        name: Name of the model, for messages.
        recorder: Records calls.
        exchange: Gives a value of every rank, and what it is about, to all of them; for captures, which are few.
        watch: Opened round rehearsals and captures; the list that it gives then holds what was decided on the host by
            data.
        tells: Whether this rank tells the user.
        most: Graphs that are kept.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        *,
        exchange: Callable[[Any, str], list[Any]],
        watch: Callable[[], AbstractContextManager[list[str]]],
        tells: bool,
        most: int = MOST_GRAPHS,
    ) -> None:
        self._name, self._recorder, self._exchange = name, recorder, exchange
        self._watch, self._tells, self._most = watch, tells, most
        self._ledger: Ledger[_Graph, _Buffers] = Ledger(most)
        self._described: Described | None = None
        self._move, self._reason = GraphMove.EAGER, ""

    @property
    def report(self) -> GraphReport:
        """What became of the calls so far."""
        return self._ledger.report

    def propose(
        self, arguments: Mapping[str, Any], stamp: Hashable, obstacle: str | None, context: tuple[Any, ...] = ()
    ) -> Any:
        """What this rank could do with its next call: plain data, for the other ranks.

        Args:
            arguments: By name.
            stamp: Differs where the model's weights are others, or lie elsewhere, than before.
            obstacle: Why the model cannot be replayed as it is now.
            context: What else the call depends on.
        """
        self._described = described = describe(arguments, self._recorder.device, context)
        gradients = torch.is_grad_enabled() and "gradients would be recorded: call it inside torch.no_grad()"
        found = obstacle or described.obstacle or gradients or None
        return self._ledger.propose(described.form, stamp, found).to_plain()

    def settle(self, told: Sequence[Any]) -> None:
        """Take what all ranks have proposed, in order of rank."""
        self._move, self._reason = settle([Proposal.from_plain(each) for each in told])

    def __call__(self, call: _Call, arguments: Mapping[str, Any]) -> Any:
        """Make the call.

        Args:
            call: The model, which takes the arguments by name.
            arguments: As they were proposed.

        Returns:
            What the model returns, in memory of the caller's.

        Raises:
            UnsupportedError: On all ranks: it could not be captured, or the graph computes something else.
        """
        described, self._described = self._described, None
        assert described is not None, "nothing was proposed"
        if self._move is GraphMove.EAGER:
            self._note(described.form, GraphMove.EAGER, self._reason)
            return call(**arguments)
        if self._move is GraphMove.REPLAY:
            self._note(described.form, GraphMove.REPLAY)
            graph = self._ledger.graph(described.form)
            graph.buffers.fill(described.tensors)
            graph.recording.replay()
            return _copied(graph.recording.output)
        if self._move is GraphMove.REHEARSE:
            self._note(described.form, GraphMove.REHEARSE)
        buffers = self._ledger.prepared(described.form) or _Buffers.like(described, arguments)
        output, unfit = self._rehearse(call, described, buffers)
        return output if self._move is GraphMove.REHEARSE else self._capture(call, described, buffers, output, unfit)

    def _rehearse(self, call: _Call, described: Described, buffers: _Buffers) -> tuple[Any, str | None]:
        """Make the call as it is, on the memory that a graph would read."""
        filled, trials = buffers.fill(described.tensors), trial_calls()
        with planned_for_replays(), self._watch() as decided:
            found, waits = self._recorder.rehearse(lambda: call(**buffers.arguments))
            output = _copied(found)
        settled = trial_calls() == trials
        self._ledger.rehearsed(described.form, buffers, counts=settled)
        if not settled:
            return output, ""  # schedule auto goes on trying: a later call of this form will do
        if buffers.versions != filled:
            return output, "the model writes to its arguments"
        return output, decided[0] if decided else waits

    def _capture(self, call: _Call, described: Described, buffers: _Buffers, output: Any, unfit: str | None) -> Any:
        """Record the call and replay it once; ``output`` is what it has to return, as it has just been made."""
        form, what = described.form, f"a capture of the {self._name}"
        told = self._exchange(unfit, what)
        if any(each is not None for each in told):
            reasons = [each for each in told if each]
            if reasons:
                self._ledger.unfit(form, reasons[0])
                self._note(form, GraphMove.EAGER, reasons[0])
            else:
                self._note(form, GraphMove.REHEARSE)
            return output
        problem: str | None = None
        graph: _Graph | None = None
        buffers.clear()  # what runs now instead of being recorded has the answer to another question
        try:
            with planned_for_replays(), self._watch() as decided, OutsideTensors() as read:
                recording = self._recorder.record(lambda: call(**buffers.arguments))
            if decided:  # as in no rehearsal
                raise RuntimeError(decided[0])
            graph = _Graph(recording, buffers, read.found)
        except Exception as error:  # told to all ranks, so that none of them replays alone
            problem = " ".join(f"{type(error).__name__}: {error}".split())
        failed = "could not be captured as a CUDA graph"
        try:
            told = self._exchange(problem, what)
        except TokenRingError as unheard:  # another rank may wait for this one in the midst of its capture
            if problem is None:
                raise
            raise UnsupportedError(f"the {self._name} {failed} here ({problem}), and {unheard}") from unheard
        self._refuse(told, failed)
        assert graph is not None
        buffers.fill(described.tensors)
        graph.recording.replay()
        replayed = _copied(graph.recording.output)
        off = _difference(replayed, output)
        self._refuse(self._exchange(off, what), "was captured as a CUDA graph that computes something else")
        self._ledger.keep(form, graph)
        self._note(form, GraphMove.CAPTURE)
        if self._tells:
            report = self.report
            log.info(
                "the %s was captured as a CUDA graph of %.2f GB; %d of at most %d graphs, %.2f GB in all",
                self._name,
                graph.memory_bytes / 1e9,
                report.graphs,
                self._most,
                report.memory_bytes / 1e9,
            )
        return replayed

    def _refuse(self, problems: Sequence[str | None], what: str) -> None:
        found = [(rank, problem) for rank, problem in enumerate(problems) if problem is not None]
        if found:
            self._ledger.forget()
            rank, problem = found[0]
            raise UnsupportedError(
                f"the {self._name} {what} on rank {rank} ({problem}): start the ranks again, without CUDA graphs"
            )

    def _note(self, form: CallForm, move: GraphMove, reason: str = "") -> None:
        said = self._ledger.note(form, move, reason)
        if said is not None and self._tells:
            log.warning("the %s %s", self._name, said)


def _copied(output: Any) -> Any:
    """An output in memory of its own: the next replay writes to that of the graph."""
    return tensors_replaced(output, lambda tensor: tensor.clone())


def _difference(output: Any, expected: Any) -> str | None:
    """How a graph's output differs from what it has to be by more than devices round; ``None`` where it does not."""
    ours, theirs = _tensors(output), _tensors(expected)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return "another number of tensors, or other shapes"
    for mine, right in zip(ours, theirs, strict=True):
        if not right.dtype.is_floating_point:
            if not torch.equal(mine, right):
                return "other whole numbers"
            continue
        finite = right.isfinite()
        if not torch.equal(mine.isfinite(), finite):
            return "other infinities or NaNs"
        parts = right.double(), mine.double() - right.double()
        size, off = (torch.where(finite, part, 0.0).norm().item() for part in parts)
        if off > _LIMITS.get(right.dtype, 0.1) * size:
            return f"off by {off / max(size, 1e-30):.1g} of its size"
    return None


def _tensors(output: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    tensors_replaced(output, note)
    return found
