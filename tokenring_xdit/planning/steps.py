"""What each rank does in order, with what it costs on a machine: posts, works, waits.

:mod:`~tokenring_xdit.planning.simulate` runs these on a network. They are read off lowered programs, step by step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenring_xdit.planning.effects import Effects
from tokenring_xdit.planning.machine import Attention, Machine
from tokenring_xdit.schedule import Activity, Block
from tokenring_xdit.schedule.lower.program import (
    Collective,
    Concat,
    Done,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    Slot,
    View,
)

__all__ = ["Message", "Posting", "TimedStep", "Work", "timed"]


@dataclass(eq=False, slots=True)
class Message:
    """One message between two ranks: the same object in the steps of both.

    Attributes:
        source: Sender.
        target: Receiver.
        channel: Name of the channel: each pair of ranks has a connection on each, and its messages keep their order.
        size: Bytes.
        what: The block; its text is for people.
        after: What has to have gone before it goes, besides those before it on its connection.
        before: What has this one as its ``after``.
    """

    source: int
    target: int
    channel: str
    size: int
    what: Block | str
    after: Message | None = None
    before: Message | None = None


class Posting(NamedTuple):
    """Messages announced and handed over, once what they hold is here; nothing is waited for afterwards.

    Attributes:
        needs: Messages that have to have come.
        recvs: What may come now.
        sends: What goes.
        seconds: What that costs the rank.
        launch: What it costs the rank's host, which runs ahead.
        ordered: The channel where these are one exchange, which begins when those before it are over and is over as
            a whole; empty where each message is for itself.
    """

    needs: tuple[Message, ...]
    recvs: tuple[Message, ...]
    sends: tuple[Message, ...]
    seconds: float
    launch: float = 0.0
    ordered: str = ""


class Work(NamedTuple):
    """The rank computes, once what it needs is here.

    Attributes:
        activity: What for.
        needs: Messages that have to have come, or, of the rank's own, to have gone.
        seconds: How long, undisturbed.
        what: What with; its text is for people.
        launch: What it costs the rank's host, which runs ahead.
    """

    activity: Activity
    needs: tuple[Message, ...]
    seconds: float
    what: KernelCall | Concat | MergeCall | Done | str
    launch: float = 0.0


TimedStep = Posting | Work


class _Messages:
    """Makes each message once, for its sender or receiver, whoever asks first; the other finds it."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, str], list[Message]] = defaultdict(list)
        self._sent: dict[tuple[int, int, str], int] = defaultdict(int)
        self._awaited: dict[tuple[int, int, str], int] = defaultdict(int)

    def sent(self, source: int, target: int, channel: str, size: int, what: Block | str) -> Message:
        """The next one that the source sends to the target."""
        return self._next(self._sent, (source, target, channel), size, what)

    def awaited(self, source: int, target: int, channel: str, size: int, what: Block | str) -> Message:
        """The next one that the target awaits from the source."""
        return self._next(self._awaited, (source, target, channel), size, what)

    def _next(
        self, counts: dict[tuple[int, int, str], int], connection: tuple[int, int, str], size: int, what: Block | str
    ) -> Message:
        made, number = self._made[connection], counts[connection]
        counts[connection] = number + 1
        if number == len(made):
            made.append(Message(*connection, size, what))
        return made[number]


def timed(programs: Sequence[RankProgram], machine: Machine, effects: Effects) -> tuple[tuple[TimedStep, ...], ...]:
    """Give what ranks do its cost.

    Args:
        programs: Programs of all ranks.
        machine: What it takes.
        effects: What else happens.
    """
    messages = _Messages()
    return tuple(
        tuple(_TimedRank(rank, program, machine, effects, messages).steps()) for rank, program in enumerate(programs)
    )


class _TimedRank:
    def __init__(
        self, number: int, program: RankProgram, machine: Machine, effects: Effects, messages: _Messages
    ) -> None:
        self._number, self._program, self._messages = number, program, messages
        self._machine, self._effects = machine, effects
        self._came: dict[int, Message] = {}  # what brings the content of a slot
        self._packed: list[int] = []  # bytes of what the next post sends
        self._posted: list[tuple[Message, ...]] = []  # what each exchange sends
        self._unneeded: list[Message] = []  # what comes, and nothing has needed so far

    def steps(self) -> Iterator[TimedStep]:
        machine, launches = self._machine, self._machine.launches
        if self._program.ours:
            yield Work(Activity.WAIT, (), machine.call_overhead, "the call", launches.call)
        for _, step in self._program.steps:
            if isinstance(step, Post):
                if step.collective is Collective.ALL_GATHER:
                    yield from self._all_gather(step)
                elif step.collective is Collective.ALL_TO_ALL:
                    yield from self._all_to_all(step)
                else:
                    yield self._post(step)
            elif isinstance(step, Pack):
                self._packed.append(self._size(step.slot))
                self._came.pop(step.slot, None)
            elif isinstance(step, Concat):
                yield self._concat(step)
            elif isinstance(step, MergeCall):
                slots = [partial.slot for partial in step.partials]
                seconds = machine.fold(sum(map(self._size, slots)))
                yield Work(Activity.MERGE, self._needs(*slots), seconds, step, launches.fold)
            elif isinstance(step, Done):
                yield Work(Activity.WAIT, self._posted[step.post], 0.0, step)
            else:
                seconds = machine.attend(self._attention(step))
                needs = self._needs(step.keys.slot, step.queries.slot)
                launch = launches.attend + launches.fold * (step.output >= 0)  # its log-sum-exp becomes token-major
                yield Work(Activity.ATTEND, needs, seconds, step, launch)
        if self._unneeded:
            yield Work(Activity.WAIT, tuple(self._unneeded), 0.0, "what comes and nothing needs")

    def _concat(self, step: Concat) -> Work:
        """What has not arrived in its place is copied."""
        slots = self._program.slots
        copied = [self._part_size(part) for part in step.parts if slots[part.slot].inside != step.slot]
        needs = self._needs(*(part.slot for part in step.parts))
        self._came.pop(step.slot, None)
        launch = self._machine.launches.fold * bool(copied)
        return Work(Activity.MERGE, needs, self._machine.fold(sum(copied)) if copied else 0.0, step, launch)

    def _attention(self, step: KernelCall) -> Attention:
        head_dim = self._program.slots[step.queries.slot].shape[3]
        pairs = float(step.pairs)
        if step.pairs < 0:
            pairs = step.q_tokens * step.kv_tokens * (0.5 if step.causal else 1.0)
        return Attention(4.0 * step.heads * pairs * head_dim, step.heads, step.q_tokens)

    def _needs(self, *slots: int) -> tuple[Message, ...]:
        needed = tuple(self._came[slot] for slot in slots if slot in self._came)
        self._unneeded = [message for message in self._unneeded if message not in needed]
        return needed

    def _size(self, slot: int) -> int:
        return self._program.slots[slot].size

    def _view(self, part: View) -> Slot:
        return self._program.slots[part.slot].part(part.cut)

    def _part_size(self, part: View) -> int:
        return self._view(part).size

    def _packing(self) -> tuple[float, float]:
        """Seconds of packing what the next post sends, and what the host takes."""
        packed, self._packed = self._packed, []
        return sum(map(self._machine.fold, packed)), len(packed) * self._machine.launches.fold

    def _post(self, step: Post) -> Posting:
        needs = self._needs(*(part.slot for part in step.payloads))
        recvs = [
            self._messages.awaited(recv.peer, self._number, recv.channel, self._size(recv.slot), recv.block)
            for recv in step.recvs
        ]
        self._came.update((recv.slot, message) for recv, message in zip(step.recvs, recvs, strict=True))
        self._unneeded += recvs
        sends = [
            self._messages.sent(
                self._number, send.peer, send.channel, self._part_size(step.payloads[send.payload]), send.block
            )
            for send in step.sends
        ]
        self._posted.append(tuple(sends))
        seconds, launch = self._packing()
        seconds += step.messages * self._machine.message_overhead
        launch += step.messages * self._machine.launches.message
        ordered = step.channel if self._machine.in_order else ""
        return Posting(needs, tuple(recvs), tuple(sends), seconds, launch, ordered)

    def _all_gather(self, step: Post) -> Iterator[TimedStep]:
        """Round a ring, one neighbour at a time, in gloo as in NCCL's plain algorithm; tensor after tensor."""
        seconds, launch = self._packing()
        (payload,) = step.payloads
        slots, own = {recv.peer: recv.slot for recv in step.recvs}, step.sends[0]
        blocks = {recv.peer: (recv.block, self._program.slots[recv.slot].sizes(step.messages)) for recv in step.recvs}
        blocks[self._number] = own.block, self._view(payload).sizes(step.messages)
        ranks = sorted(blocks)
        at, channel = ranks.index(self._number), own.channel
        before, after = ranks[at - 1], ranks[(at + 1) % len(ranks)]
        came = self._needs(payload.slot)
        sent: list[Message] = []
        for tensor in range(step.messages):
            launch += self._machine.launches.collective
            for hop in range(len(ranks) - 1):
                going, coming = blocks[ranks[at - hop]], blocks[ranks[at - hop - 1]]
                recv = self._messages.awaited(before, self._number, channel, coming[1][tensor], coming[0])
                send = self._messages.sent(self._number, after, channel, going[1][tensor], going[0])
                yield Posting(came, (recv,), (send,), seconds + 2 * self._machine.message_overhead, launch)
                seconds = launch = 0.0
                came = (recv,)
                sent.append(send)
                self._came[slots[ranks[at - hop - 1]]] = recv
        if step.blocks:
            yield Work(Activity.WAIT, (*came, *sent), 0.0, "all of it")

    def _all_to_all(self, step: Post) -> Iterator[TimedStep]:
        """Tensor after tensor."""
        seconds, launch = self._packing()
        needs = self._needs(*(part.slot for part in step.payloads))
        recvs: list[Message] = []
        for tensor in range(step.messages):
            recvs, sends = [], []
            for recv, send in zip(step.recvs, step.sends, strict=True):
                there_size = self._view(step.payloads[send.payload]).sizes(step.messages)[tensor]
                back_size = self._program.slots[recv.slot].sizes(step.messages)[tensor]
                back = self._messages.awaited(recv.peer, self._number, recv.channel, back_size, recv.block)
                there = self._messages.sent(self._number, send.peer, send.channel, there_size, send.block)
                peer = send.peer
                if self._effects.takes_turns and (self._number < peer) == bool((self._number + peer) % 2):
                    there.after, back.before = back, there
                self._came[recv.slot] = back
                recvs.append(back)
                sends.append(there)
            seconds += 2 * len(sends) * self._machine.message_overhead
            launch += self._machine.launches.collective
            yield Posting(needs, tuple(recvs), tuple(sends), seconds, launch)
            needs, seconds, launch = tuple(recvs), 0.0, 0.0
        if step.blocks:
            yield Work(Activity.WAIT, tuple(recvs), 0.0, str(step))
