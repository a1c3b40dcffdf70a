"""What a checkup leaves behind: ``doctor.json``. Pure data; ``docs/gpu.md`` has the fields."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from tokenring_xdit.bench.plan import Level
from tokenring_xdit.bench.records import Record
from tokenring_xdit.doctor.machines import Entry, MachineFacts, NodeFacts

__all__ = [
    "JSON_FILE",
    "Checkup",
    "ExactnessResult",
    "Finding",
    "Grade",
    "KernelTiming",
    "LaunchTiming",
    "MessageTiming",
    "NamedShape",
    "PartOutcome",
    "PartState",
]


JSON_FILE = "doctor.json"


class PartState(Enum):
    """How a part of a checkup ended."""

    DONE = "done"
    SKIPPED = "skipped"
    IMPOSSIBLE = "not possible here"
    CUT_SHORT = "cut short"
    FAILED = "failed"


class PartOutcome(Entry):
    """How a part ended.

    Attributes:
        name: Name of the part.
        state: How.
        said: Why, where it was not done; empty otherwise.
        seconds: What it took.
    """

    name: str
    state: PartState
    said: str = ""
    seconds: float = 0.0


class Grade(Enum):
    """How good or bad something is that was found."""

    FINE = "fine"
    NOTE = "note"
    WRONG = "wrong"


class Finding(Entry):
    """Something that was found, in plain sentences.

    Attributes:
        grade: How good or bad it is.
        said: What was found, and what that means.
        advice: What to do; empty where there is nothing.
    """

    grade: Grade
    said: str
    advice: str = ""


class ExactnessResult(Entry):
    """A schedule on a problem, beside softmax in fp64.

    Attributes:
        schedule: As it is asked for.
        mask: ``full`` or ``causal``.
        problem: Shards, heads and the like.
        dtype: Dtype of queries, keys and values.
        error: Largest difference of outputs, as a share of the largest expected output, or of log-sum-exps, whichever
            is larger; ``None`` where there is no number.
        limit: That the error may have.
        exact: Whether it is within the limit.
        said: Why there is no number.
    """

    schedule: str
    mask: str
    problem: str
    dtype: str
    error: float | None
    limit: float
    exact: bool
    said: str = ""


class KernelTiming(Entry):
    """A kernel on this machine.

    Attributes:
        kernel: Its name.
        problem: Tokens and heads.
        dtype: Dtype of queries, keys and values.
        seconds: Seconds of a call, the median; ``None`` where it cannot run.
        flops: Floating-point operations a second.
        error: Beside softmax in fp64, as a share of the largest expected output.
        exact: Whether that is within the dtype's limit.
        said: Why it cannot run.
    """

    kernel: str
    problem: str
    dtype: str
    seconds: float | None = None
    flops: float | None = None
    error: float | None = None
    exact: bool = True
    said: str = ""


class LaunchTiming(Entry):
    """What a call of few tokens takes.

    Attributes:
        schedule: As it is asked for.
        ranks: How many took part.
        host_seconds: Until the call returns, on the slowest rank; on GPUs the work may go on then.
        seconds: Until the work is done.
        said: Why there are no times.
    """

    schedule: str
    ranks: int
    host_seconds: float | None = None
    seconds: float | None = None
    said: str = ""


class MessageTiming(Entry):
    """Messages of one size from rank 0 to rank 1.

    Attributes:
        size: Bytes of a message.
        rate: Bytes a second, one way.
        both_ways: Bytes a second and direction while messages go both ways.
    """

    size: int
    rate: float
    both_ways: float


class NamedShape(Entry):
    """An attention call that strategies were timed at.

    Attributes:
        name: What it is of.
        tokens: Length of the whole sequence, as far as ranks share it evenly.
        heads: Heads.
        head_dim: Width of a head.
    """

    name: str
    tokens: int
    heads: int
    head_dim: int


class Checkup(Entry):
    """A checkup of a machine: all of ``doctor.json``.

    Attributes:
        version: Version of this form.
        package: Version of tokenring-xdit.
        command: What the user typed.
        started: When, in ISO 8601.
        seconds: What it took.
        quick: Whether little was measured.
        ranks: How many ranks took part in what needs several.
        backend: Over which they talked: ``nccl`` or ``gloo``.
        machine: What the machine has, of several nodes that of rank 0; ``None`` where that could not be found out.
        nodes: The nodes, where torchrun started the ranks.
        parts: How each part ended.
        exactness: Schedules beside softmax in fp64.
        latency: Seconds of a few bytes for one way between ranks 0 and 1.
        messages: What messages reach, by their size.
        topology: What was written as ``topology.yaml``.
        topology_said: Where that comes from, or why there is none.
        kernels: Kernels on one device.
        launches: Calls of few tokens.
        shapes: What the attention calls are of.
        strategies: Attention calls and denoising steps by strategy, as sweeps record them.
        findings: What all that means.
    """

    version: Literal[1] = 1
    package: str
    command: str
    started: str
    seconds: float
    quick: bool
    ranks: int
    backend: str
    machine: MachineFacts | None
    nodes: tuple[NodeFacts, ...] = ()
    parts: tuple[PartOutcome, ...]
    exactness: tuple[ExactnessResult, ...] = ()
    latency: float | None = None
    messages: tuple[MessageTiming, ...] = ()
    topology: dict[str, Any] | None = None
    topology_said: str = ""
    kernels: tuple[KernelTiming, ...] = ()
    launches: tuple[LaunchTiming, ...] = ()
    shapes: tuple[NamedShape, ...] = ()
    strategies: tuple[Record, ...] = ()
    findings: tuple[Finding, ...] = ()

    def title(self, record: Record) -> str:
        """What a strategy was timed at, for people."""
        ranks = "1 rank" if record.ranks == 1 else f"{record.ranks} ranks"
        if record.level == Level.PIPELINE.value:
            return f"one denoising step of {record.model}, {record.size} pixels, {ranks}"
        known = [s.name for s in self.shapes if (s.tokens, s.heads) == (record.tokens, record.heads)]
        call = f"{record.tokens} tokens, {record.heads} heads of {record.head_dim}, {record.dtype}, {ranks}"
        return f"one attention call of {known[0]}: {call}" if known else f"one attention call: {call}"

    @property
    def exactness_by_schedule(self) -> dict[tuple[str, str, str], list[ExactnessResult]]:
        """Calls of each schedule, mask and dtype."""
        found: dict[tuple[str, str, str], list[ExactnessResult]] = {}
        for result in self.exactness:
            found.setdefault((result.schedule, result.mask, result.dtype), []).append(result)
        return found

    @property
    def cut_short(self) -> tuple[str, ...]:
        """Names of the parts for which there was not enough time."""
        return tuple(part.name for part in self.parts if part.state is PartState.CUT_SHORT)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(finding for finding in self.findings if finding.grade is Grade.WRONG)
