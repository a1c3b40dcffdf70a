"""What a rank does in a call of given shapes: steps over numbered slots. One program for each rank.

A :class:`~tokenring_xdit.schedule.plan.Schedule` names blocks; a :class:`RankProgram` names memory. The executor runs
it, the simulator times it, forecasts of memory and pictures are read off it, and none of them works out anything that
is not in it. :func:`~tokenring_xdit.schedule.lower.prove` proves a set of them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tokenring_xdit.schedule.plan import Attend, Block
from tokenring_xdit.schedule.problem import LSE_BYTES, Shape

__all__ = [
    "OWN_KV",
    "OWN_Q",
    "RESULT",
    "Collective",
    "Concat",
    "Cut",
    "Done",
    "KernelCall",
    "MergeCall",
    "Pack",
    "Partial",
    "Post",
    "RankProgram",
    "Recv",
    "Send",
    "Slot",
    "SlotForm",
    "Step",
    "Target",
    "View",
    "reads",
    "writes",
]

OWN_Q, OWN_KV, RESULT = 0, 1, 2
"""Slots of this rank's own queries, of its keys and values, and of its result."""

Cut = tuple[int, int, int, int]
"""First and last head, first and last token, the last excluded."""


class SlotForm(Enum):
    """What a slot holds."""

    QUERIES = "queries"
    KEYS = "keys"
    """Keys and values: two tensors."""
    PARTIAL = "partial"
    """A partial output and its log-sum-exp as one message."""
    OUTPUT = "output"
    """The same as two tensors: what a kernel made, sent and merged as it is."""
    SUM = "sum"
    """An output and its log-sum-exp that kernels and merges add to."""

    @property
    def tensors(self) -> int:
        """Tensors of a slot, each of which is a message of its own."""
        return 2 if self in (SlotForm.KEYS, SlotForm.OUTPUT) else 1


class Slot(NamedTuple):
    """Memory of a rank.

    Attributes:
        form: What it holds.
        shape: Shape of each of its tensors, ``[B, H, S, D]``; of an output without its log-sum-exp.
        size: Bytes of all of it.
        inside: The slot whose memory it is a part of, or -1.
        first: Its first token there.
    """

    form: SlotForm
    shape: Shape
    size: int
    inside: int = -1
    first: int = 0

    def sizes(self, messages: int) -> tuple[int, ...]:
        """Bytes of each of its tensors, where each is a message, or of all of it, where they are one."""
        if messages == 1 or self.form.tensors == 1:
            return (self.size,)
        batch, heads, tokens, _ = self.shape
        last = batch * heads * tokens * LSE_BYTES if self.form is SlotForm.OUTPUT else self.size // 2
        return self.size - last, last

    def part(self, cut: Cut | None) -> Slot:
        """A slot as large as some heads and tokens of this one; ``None`` for all."""
        if cut is None:
            return self
        batch, heads, tokens, head_dim = self.shape
        low, high, first, last = cut
        size = self.size * (high - low) * (last - first) // max(1, heads * tokens)
        return Slot(self.form, (batch, high - low, last - first, head_dim), size)


class View(NamedTuple):
    """Queries, or keys and values, to be read.

    Attributes:
        slot: Where they are.
        cut: Which heads and tokens of what is there; ``None`` for all.
    """

    slot: int
    cut: Cut | None = None


class Recv(NamedTuple):
    """A block that comes.

    Attributes:
        channel: The channel.
        peer: Who sends it.
        slot: Where it goes.
        block: Its name.
        exchange: Index of the exchange of the plan that brings it.
    """

    channel: str
    peer: int
    slot: int
    block: Block
    exchange: int

    def __str__(self) -> str:
        return f"block {self.block}"


class Send(NamedTuple):
    """A block that goes.

    Attributes:
        channel: The channel.
        peer: Who gets it.
        payload: Index of what goes in :attr:`Post.payloads`: several peers may get the same.
        block: Its name.
    """

    channel: str
    peer: int
    payload: int
    block: Block


class Collective(Enum):
    """An exchange that all ranks of a group make alike."""

    ALL_GATHER = "all-gather"
    ALL_TO_ALL = "all-to-all"


class Post(NamedTuple):
    """Transfers that are posted together, receives first; what arrives is waited for where it is first read.

    Attributes:
        recvs: What comes, with receives of later exchanges where the transport wants them early.
        payloads: What goes, each once.
        sends: Who gets what.
        messages: Messages of the exchange itself, those included whose receive was posted earlier; of a collective how
            many it takes: one for each tensor, or one for all of them.
        collective: What the transfers are together, where a collective does them. All that comes lies in one slot then,
            by rank, with room for this rank's own in its place; of an all-to-all all that goes, too.
        blocks: Whether the rank waits until all of it is over.
        own: Slot in which an all-gather leaves this rank's own as well; -1 where nothing needs it there.
    """

    recvs: tuple[Recv, ...]
    payloads: tuple[View, ...]
    sends: tuple[Send, ...]
    messages: int
    collective: Collective | None = None
    blocks: bool = False
    own: int = -1

    @property
    def transfers(self) -> list[Recv | Send]:
        """All of them, receives first."""
        return [*self.recvs, *self.sends]

    @property
    def channel(self) -> str:
        """That of the exchange itself, empty where nothing is left of it; early receives may come on others."""
        return self.transfers[-1].channel if self.transfers else ""

    def __str__(self) -> str:
        return f"exchange {self.channel}"


class Pack(NamedTuple):
    """A sum becomes a message; its slot is empty afterwards.

    Attributes:
        source: The sum; empty where a rank had no keys to add.
        slot: Where the message goes.
        block: Its name.
    """

    source: int
    slot: int
    block: Block


class Concat(NamedTuple):
    """Queries, or keys and values, of several blocks put one behind the other along their tokens.

    Attributes:
        parts: The blocks; those whose slots are inside of ``slot`` have arrived in their place.
        slot: Where they go.
        blocks: Their names.
    """

    parts: tuple[View, ...]
    slot: int
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.blocks))


class Target(NamedTuple):
    """Where the output of a kernel call, or a part of it, is added.

    Attributes:
        slot: The sum.
        cut: Which heads and tokens of the sum; ``None`` for all.
        rows: First and last token of the kernel's output, the last excluded; ``None`` for all.
    """

    slot: int
    cut: Cut | None = None
    rows: tuple[int, int] | None = None


class KernelCall(NamedTuple):
    """One call of the attention kernel.

    Attributes:
        queries: The queries.
        keys: The keys and values.
        causal: Whether a query sees the keys up to its own position only.
        targets: Where the output goes.
        heads: Query heads of all items.
        q_tokens: Tokens of the queries.
        kv_tokens: Tokens of the keys.
        attends: What it carries out of the plan.
        output: Slot that holds all of the output, to be sent from there; -1 where nothing is.
        pairs: How many pairs of a query and a key each head attends, where the kernel knows a mask of its own; -1 where
            they are all of them, or as many as ``causal`` leaves.
    """

    queries: View
    keys: View
    causal: bool
    targets: tuple[Target, ...]
    heads: int
    q_tokens: int
    kv_tokens: int
    attends: tuple[Attend, ...]
    output: int = -1
    pairs: int = -1

    def __str__(self) -> str:
        queries = dict.fromkeys(str(attend.q) for attend in self.attends)
        keys = dict.fromkeys(str(attend.kv) for attend in self.attends)
        return f"{', '.join(queries)} to {', '.join(keys)}"


class Partial(NamedTuple):
    """A partial output that came home.

    Attributes:
        slot: Where it arrived.
        cut: Which heads and tokens of the result; ``None`` for all.
        block: Its name.
    """

    slot: int
    cut: Cut | None
    block: Block


class MergeCall(NamedTuple):
    """Partial outputs that came home, added to the result.

    Attributes:
        partials: All of them.
    """

    partials: tuple[Partial, ...]

    def __str__(self) -> str:
        return ", ".join(str(partial.block) for partial in self.partials)


class Done(NamedTuple):
    """An exchange is over: what it sent has gone, what it brought has been read, and the memory of both may go.

    Attributes:
        post: Its number among the exchanges of the rank.
    """

    post: int

    def __str__(self) -> str:
        return "what was sent"


Step = Post | Pack | Concat | KernelCall | MergeCall | Done


class RankProgram(NamedTuple):
    """What a rank does.

    Attributes:
        slots: Its memory; the first three are its queries, its keys and values, and its result.
        steps: What it does in order, each with the index of its action in the plan.
        peak: Most bytes that it holds at once beside its inputs.
        ours: Whether it is a call of this package, which takes time of its own.
        token_major: Whether blocks travel, and lie in slots, as ``[S, B, H, D]``: what lies one behind the other is one
            tensor then, and some tokens of it are contiguous.
        fleeting: Whether slots have memory from when something comes to them until :class:`Done`; else for good.
    """

    slots: tuple[Slot, ...]
    steps: tuple[tuple[int, Step], ...]
    peak: int
    ours: bool = True
    token_major: bool = False
    fleeting: bool = False


def reads(step: Step) -> tuple[int, ...]:
    """Slots whose content a step needs."""
    if isinstance(step, Post):
        return tuple(part.slot for part in step.payloads)
    if isinstance(step, Pack):
        return (step.source,)
    if isinstance(step, Concat):
        return tuple(part.slot for part in step.parts)
    if isinstance(step, KernelCall):
        return step.queries.slot, step.keys.slot
    return () if isinstance(step, Done) else tuple(partial.slot for partial in step.partials)


def writes(step: Step) -> tuple[int, ...]:
    """Slots whose content a step changes."""
    if isinstance(step, Post):
        received = tuple(recv.slot for recv in step.recvs)
        return received if step.own < 0 else (*received, step.own)
    if isinstance(step, Pack | Concat):
        return (step.slot,)
    if isinstance(step, KernelCall):
        made = tuple(target.slot for target in step.targets)
        return made if step.output < 0 else (*made, step.output)
    return () if isinstance(step, Done) else (RESULT,)
