"""What a checkup asks its ranks for, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.dtypes import DtypeName

__all__ = [
    "CheckCall",
    "LookAround",
    "TimeCall",
    "TimeKernel",
    "TimeMessages",
    "TinyCall",
]


@dataclass(frozen=True)
class LookAround:
    """Say what the machine has. The answer is a :class:`~tokenring_xdit.doctor.record.MachineFacts`."""


@dataclass(frozen=True)
class TimeKernel:
    """Time a kernel. The answer is a :class:`~tokenring_xdit.doctor.record.KernelTiming`.

    Attributes:
        kernel: Its name.
        tokens: Queries, and as many keys.
        heads: Heads.
        head_dim: Width of a head.
        dtype: Dtype of queries, keys and values.
        seconds: For how long, about.
    """

    kernel: str
    tokens: int
    heads: int
    head_dim: int
    dtype: DtypeName
    seconds: float

    @property
    def problem(self) -> str:
        """Tokens and heads, for people."""
        return f"{self.tokens} tokens, {self.heads} heads of {self.head_dim}"


@dataclass(frozen=True)
class CheckCall:
    """Call attention and compare it with softmax in fp64.

    The answer is the largest relative error on the rank, or a text: why it refuses the call.

    Attributes:
        schedule: As it is asked for.
        causal: Whether a query sees the keys up to its own position only.
        lengths: Tokens of each rank.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        text: Tokens whose keys every rank holds.
        dtype: Dtype of queries, keys and values.
    """

    schedule: str
    causal: bool
    lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    text: int
    dtype: DtypeName


@dataclass(frozen=True)
class TimeCall:
    """Time calls of few tokens. The answer is a :class:`TinyCall`, or a text: why the rank refuses the call.

    Attributes:
        schedule: As it is asked for.
        tokens: Tokens of each rank.
        heads: Heads.
        head_dim: Width of a head.
        dtype: Dtype of queries, keys and values.
        rounds: Timed calls.
    """

    schedule: str
    tokens: int
    heads: int
    head_dim: int
    dtype: DtypeName
    rounds: int


@dataclass(frozen=True)
class TinyCall:
    """Medians of calls on one rank.

    Attributes:
        host_seconds: Until the call returned.
        seconds: Until its work was done.
    """

    host_seconds: float
    seconds: float


@dataclass(frozen=True)
class TimeMessages:
    """Time messages between ranks 0 and 1, each alone. The answer of these is the median of seconds a message.

    Attributes:
        size: Bytes of a message.
        both_ways: Whether the two send at the same time; in turn otherwise.
        messages: How many in a row, so that what starts and ends them does not count.
        rounds: How often.
    """

    size: int
    both_ways: bool
    messages: int
    rounds: int
