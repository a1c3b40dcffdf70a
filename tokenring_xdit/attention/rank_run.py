"""A rank's program, step by step: its exchanges are posted, blocks attended, partial outputs merged.

It knows neither groups nor schedules. Within an exchange receives are posted before sends (gloo runs an exchange
between two ranks half-duplex otherwise), and arrival is waited for at the first use of what arrives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention.buffers import Handle, token_major
from tokenring_xdit.attention.local import BlockAttention, nothing
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.merge import Accumulator
from tokenring_xdit.attention.observe import Observer
from tokenring_xdit.attention.transport.base import Parcel, Transport
from tokenring_xdit.schedule import Activity, q_block
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Collective,
    Concat,
    Done,
    KernelCall,
    MergeCall,
    Pack,
    Post,
    RankProgram,
    Recv,
    Step,
    View,
    reads,
    writes,
)

__all__ = ["RankRun"]


_ACTIVITIES: dict[type[Step], Activity] = {
    KernelCall: Activity.ATTEND,
    MergeCall: Activity.MERGE,
    Concat: Activity.MERGE,
}
"""Of steps that are shown in a trace."""


class RankRun:
    """One call on one rank.

    Args:
        name: What the programs are called.
        programs: What all ranks do, proved.
        transport: What carries messages.
        attention: What attends blocks.
        q: This rank's queries.
        k: Its keys.
        v: Its values.
        partial_dtype: In which partial outputs travel; ``None`` is the dtype of ``q``.
        key_mask: Which keys count, where items differ in that.
        observer: Gets the events of the call.
    """

    def __init__(
        self,
        name: str,
        programs: Sequence[RankProgram],
        transport: Transport,
        attention: BlockAttention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        partial_dtype: torch.dtype | None = None,
        key_mask: KeyMask | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.name, self.transport, self.attention = name, transport, attention
        self.dtype, self.partial_dtype, self.device = q.dtype, partial_dtype or q.dtype, q.device
        self.observer = observer
        self.program = programs[transport.rank]
        self.transferring: Post | Pack | Recv | str | None = None  # what a broken transfer would be about
        transport.begin(name, programs, q.dtype, self.partial_dtype)
        self.arena = transport.buffers.arena(self.program, q.dtype, self.partial_dtype, q.device)
        self.tensors = self.arena.tensors.copy()  # of queries and keys, and the messages of partial outputs
        self.tensors[OWN_Q], self.tensors[OWN_KV] = (q,), (k, v)
        self.arriving: list[tuple[Recv, Sequence[Handle]] | None] = [None] * len(self.tensors)
        self.sums: list[Accumulator | None] = [None] * len(self.tensors)
        self.own_items = self.attention.keys_of_each_item(key_mask, k, v)
        self.sending: list[Handle] = []  # what reads the caller's tensors
        self.posted: list[tuple[Post, list[Handle]]] = []  # with that, of a fleeting program
        self.largest = max(q.nbytes, k.nbytes)  # bytes of a message that is sent from there, at most

    def run(
        self, joint_kv: tuple[Tensor, Tensor] | None = None, joint_mask: KeyMask | None = None
    ) -> tuple[Tensor, Tensor]:
        """Execute the program from its first step to its last."""
        home = [] if joint_kv is None else self.attention.keys_of_each_item(joint_mask, *joint_kv) or [joint_kv]
        actions: dict[type[Step], Callable[[Any], None]] = {
            Post: self._post,
            Pack: self._pack,
            Concat: self._concat,
            KernelCall: self._attend,
            MergeCall: self._merge,
            Done: self._done,
        }
        for _, step in self.program.steps:
            kind = type(step)
            if home and kind in (KernelCall, MergeCall):  # while the first blocks are under way, and before the result
                self._attend_joint(home)
                home = []
            if self.observer is None or kind not in _ACTIVITIES:
                actions[kind](step)
            else:
                with self.observer.doing(_ACTIVITIES[kind], step):
                    actions[kind](step)
        if home:
            self._attend_joint(home)
        self._settle()
        self.transport.end()
        return self._sum(RESULT).result(self.dtype)

    # -- slots -------------------------------------------------------------------------------------

    def _free(self, slot: int) -> None:
        """Have memory of a slot that may be written."""
        self._idle(slot)
        if not self.tensors[slot]:
            self.tensors[slot] = self.arena.take(slot)

    def _idle(self, slot: int) -> None:
        """Wait until nothing comes to a slot or leaves from it any more."""
        if self.arriving[slot] is not None:
            self._arrived(slot)
        readers = self.arena.readers[slot]
        if readers:
            self.transport.wait_for(readers, self.tensors[slot][0].nbytes)
            readers.clear()

    def _arrived(self, slot: int) -> None:
        """Wait for what comes to a slot."""
        arriving = self.arriving[slot]
        if arriving is not None:
            before, self.transferring = self.transferring, arriving[0]
            self.transport.wait_for(arriving[1], self.tensors[slot][0].nbytes)
            self.transferring, self.arriving[slot] = before, None

    def _read(self, part: View) -> tuple[Tensor, ...]:
        """The tensors of queries or keys, once they are here."""
        slot, cut = part
        self._arrived(slot)
        if cut is None:
            return self.tensors[slot]
        low, high, first, last = cut
        return tuple(tensor[:, low:high, first:last] for tensor in self.tensors[slot])

    def _sum(self, slot: int) -> Accumulator:
        total = self.sums[slot]
        if total is None:
            total = self.sums[slot] = Accumulator(self.program.slots[slot].shape, self.device)
        return total

    # -- transfers ---------------------------------------------------------------------------------

    def _post(self, post: Post) -> None:
        self.transferring = post
        if post.collective is not None:
            with nullcontext() if self.observer is None else self.observer.doing(Activity.WAIT, post):
                self._collect(post)
            self.transferring = None
            return
        for recv in post.recvs:
            self._free(recv.slot)
        if self.program.fleeting:
            self.sending = []
            self.posted.append((post, self.sending))
        sliced = self._sliced(post.payloads) if self.program.token_major else {}
        payloads = [sliced.get(part) or self._payload(part) for part in post.payloads]
        self._transfer(post, payloads)
        self.transferring = None

    def _payload(self, part: View) -> list[tuple[Tensor, list[Handle]]]:
        """Contiguous tensors of what goes, each with the transfers that read the memory it lies in."""
        result = []
        for tensor in self._read(part):
            message = self._message(tensor)
            contiguous = message.contiguous()
            kept = contiguous is message and part.slot > RESULT
            result.append((contiguous, self.arena.readers[part.slot] if kept else self.sending))
        return result

    def _sliced(self, parts: Sequence[View]) -> dict[View, list[tuple[Tensor, list[Handle]]]]:
        """Messages that are slices of one tensor's heads, as :meth:`_payload` makes them, by one copy of all of it."""
        by_slot: dict[int, list[View]] = defaultdict(list)
        for part in parts:
            by_slot[part.slot].append(part)
        found: dict[View, list[tuple[Tensor, list[Handle]]]] = {}
        for slot, views in by_slot.items():
            _, heads, tokens, _ = self.program.slots[slot].shape
            cuts = [part.cut for part in views if part.cut is not None and part.cut[2:] == (0, tokens)]
            width = cuts[0][1] - cuts[0][0] if cuts else heads
            alike = all(high - low == width and low % width == 0 for low, high, *_ in cuts)
            if len(cuts) < max(2, len(views)) or heads % width or not alike:
                continue
            self._arrived(slot)
            for tensor in self.tensors[slot]:
                length, batch, _, *rest = token_major(tensor).shape
                slices = token_major(tensor).reshape(length, batch, -1, width, *rest)
                made = slices.permute(2, 0, 1, *range(3, slices.dim())).contiguous()
                for part, (low, *_) in zip(views, cuts, strict=True):
                    found.setdefault(part, []).append((made[low // width], self.sending))
        return found

    def _message(self, tensor: Tensor) -> Tensor:
        """A block as it travels: the bytes of a packed partial output; others as ``[S, B, H, D]``, if that is said."""
        return token_major(tensor) if self.program.token_major and tensor.dim() > 1 else tensor

    def _transfer(self, post: Post, payloads: list[list[tuple[Tensor, list[Handle]]]]) -> None:
        recvs = [
            Parcel(recv.channel, self._message(tensor), recv.peer, last=number == len(self.tensors[recv.slot]))
            for recv in post.recvs
            for number, tensor in enumerate(self.tensors[recv.slot], 1)
        ]
        sends, readers = [], []
        for send in post.sends:
            payload = payloads[send.payload]
            for number, (tensor, reading) in enumerate(payload, 1):
                sends.append(Parcel(send.channel, tensor, send.peer, last=number == len(payload)))
                readers.append(reading)
        if self.observer is None:
            works = self.transport.post(recvs, sends)
        else:
            works = self.observer.posting(post, self.transport.post, recvs, sends)
        at = 0
        for recv in post.recvs:
            end = at + len(self.tensors[recv.slot])
            self.arriving[recv.slot] = recv, works[at:end]
            at = end
        for reading, work in zip(readers, works[at:], strict=True):
            reading.append(work)

    def _collect(self, post: Post) -> None:
        slots, channel = self.program.slots, post.channel
        memory = slots[post.recvs[0].slot].inside
        gathers = post.collective is Collective.ALL_GATHER
        owns = self._payload(post.payloads[0]) if gathers else []
        going = () if gathers else self._read(View(post.payloads[0].slot))
        for recv in post.recvs:
            self._free(recv.slot)
        for number, tensor in enumerate(self.tensors[memory]):  # keys, then values; an output, then its log-sum-exp
            coming = self._message(tensor)
            if gathers:
                own, _ = owns[number]
                self.transport.all_gather(channel, coming, own)
            else:
                rows = [slots[recv.slot].shape[2] for recv in post.recvs]
                cuts = [post.payloads[send.payload].cut or (0, 0, 0, 0) for send in post.sends]
                sent = [last - first for _, _, first, last in cuts]
                self.transport.all_to_all(channel, coming, self._message(going[number]), rows, sent)

    def _pack(self, step: Pack) -> None:
        self.transferring = step
        self._free(step.slot)
        self.transferring = None
        self._sum(step.source).write(*self.arena.partials[step.slot])
        self.sums[step.source] = None

    def _done(self, step: Done) -> None:
        post, sending = self.posted[step.post]
        self.transferring = "the end of its sends"
        self.transport.wait_for(sending, self.largest)
        sending.clear()
        for slot in (*writes(post), *reads(post)):
            if slot > RESULT:
                self._idle(slot)
                self.tensors[slot] = ()
                self.arena.give_back(slot)
        self.transferring = None

    def _settle(self) -> None:
        """Wait until the caller may overwrite its tensors, and the next call the memory of this one."""
        for slot in range(len(self.arriving)):
            self._arrived(slot)  # even where nothing needed it
        self.transferring = "the end of its sends"
        sending, largest = [*self.sending], self.largest
        for slot, readers in enumerate(self.arena.readers):
            if readers:
                sending += readers
                largest = max(largest, self.tensors[slot][0].nbytes)
                readers.clear()
        self.transport.wait_for(sending, largest)
        self.transferring = None

    # -- computation -------------------------------------------------------------------------------

    def _concat(self, step: Concat) -> None:
        parts = [self._read(part) for part in step.parts]
        self._free(step.slot)
        if not self.program.token_major:
            for out, tensors in zip(self.tensors[step.slot], zip(*parts, strict=True), strict=True):
                torch.cat(tensors, dim=2, out=out)
            return
        first = 0
        for part, tensors in zip(step.parts, parts, strict=True):
            last = first + tensors[0].shape[2]
            if self.program.slots[part.slot].inside != step.slot:  # or it has arrived there
                for out, tensor in zip(self.tensors[step.slot], tensors, strict=True):
                    out[:, :, first:last].copy_(tensor)
            first = last

    def _attend(self, step: KernelCall) -> None:
        (q,) = self._read(step.queries)
        if self.own_items is None:
            items: Sequence[tuple[Tensor, ...]] = [self._read(step.keys)]
        else:
            low, high = step.keys.cut[:2] if step.keys.cut is not None else (None, None)
            items = [(k[:, low:high], v[:, low:high], *counts) for k, v, *counts in self.own_items]
        found = self.attention(q, items, step)
        if step.output >= 0:
            found = self._keep(step.output, found or nothing(q))
        if found is None:
            return
        for slot, cut, rows in step.targets:
            out, lse = found
            if rows is not None:
                first, last = rows
                out, lse = out[:, :, first:last], lse[:, :, first:last]
            self._sum(slot).add(out, lse, cut, owned=True)

    def _keep(self, slot: int, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Have an output stay as it can be sent: in the dtype and order in which outputs travel."""
        out, lse = found
        kept = token_major(out.to(self.partial_dtype)).contiguous(), token_major(lse).contiguous()
        self.tensors[slot] = tuple(token_major(tensor, back=True) for tensor in kept)
        return found

    def _attend_joint(self, items: Sequence[tuple[Tensor, ...]]) -> None:
        what = f"{q_block(self.transport.rank)} to joint keys"
        with nullcontext() if self.observer is None else self.observer.doing(Activity.ATTEND, what):
            (q,) = self.tensors[OWN_Q]
            found = self.attention(q, items)
            if found is not None:
                self._sum(RESULT).add(*found, owned=True)

    def _merge(self, step: MergeCall) -> None:
        for partial in step.partials:
            self._arrived(partial.slot)
        total, last = self._sum(RESULT), step is self.program.steps[-1][1]
        if len(step.partials) == 1 and not (last and self.program.token_major):
            (partial,) = step.partials
            total.add(*self.arena.partials[partial.slot], partial.cut, owned=False)
        else:
            partials = [(*self.arena.partials[partial.slot], partial.cut) for partial in step.partials]
            total.add_all(partials, self.dtype if last else torch.float32)
