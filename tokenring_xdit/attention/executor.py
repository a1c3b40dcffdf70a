"""Runs a proved program of a rank: posts its exchanges, attends, merges; knows no schedule by name.

Within an exchange receives are posted before sends (gloo runs an exchange between two ranks
half-duplex otherwise), and arrival is waited for at the first use of what arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.buffers import Buffer, Handle
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.kernels import KernelFunction
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.merge import Accumulator
from tokenring_xdit.attention.messages import partial_form
from tokenring_xdit.attention.observe import Observer
from tokenring_xdit.attention.tracer import observer_of
from tokenring_xdit.attention.transport.base import Parcel, Transport
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule import Activity, VerifiedSchedule, q_block
from tokenring_xdit.schedule.lower import proved
from tokenring_xdit.schedule.lower.program import (
    OWN_KV,
    OWN_Q,
    RESULT,
    Collective,
    Concat,
    Form,
    Kernel,
    Merge,
    Pack,
    Part,
    Post,
    RankProgram,
    Recv,
)

__all__ = ["Run", "execute"]


def execute(
    verified: VerifiedSchedule,
    layout: Layout,
    ring_group: RingGroup,
    kernel: KernelFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    home_kv: tuple[Tensor, Tensor] | None = None,
    key_mask: KeyMask | None = None,
    home_mask: KeyMask | None = None,
) -> tuple[Tensor, Tensor]:
    """Run this rank's program.

    Args:
        verified: The schedule.
        layout: What the ranks agreed on for these tensors.
        ring_group: The process group and its channels.
        kernel: Local attention.
        q: This rank's queries, ``[B, H, Sq, D]``.
        k: This rank's keys, ``[B, Hkv, Skv, D]``.
        v: This rank's values, ``[B, Hkv, Skv, D]``.
        home_kv: Keys and values that every rank holds alike; each query attends them once, at home.
        key_mask: Which keys of this rank count, where the items of the batch differ in that. Other masks
            have been applied before.
        home_mask: The same for ``home_kv``.

    Returns:
        Output ``[B, H, Sq, D]`` in the dtype of ``q``, log-sum-exp ``[B, H, Sq]`` in fp32.

    Raises:
        CommunicationError: A transfer failed, or the rank did on which it waits.
        Exception: Whatever the kernel raised. After any error the group is given up.
    """
    programs = proved(verified, layout.problem, in_order=ring_group.in_order)  # or refused, on all ranks alike
    observer = observer_of(ring_group, q.device)
    run: Run | None = None
    try:
        run = Run(programs, layout, ring_group, kernel, q, k, v, key_mask, observer)
        observer.begins(verified.schedule.name, run.program)
        return run.run(home_kv, home_mask)
    except BaseException as error:
        # Transfers are under way: what comes next on these channels would take what this call left.
        observer.failed()
        where = f"in schedule '{verified.schedule.name}'"
        if isinstance(error, Broken):
            transferring = run.transferring if run is not None else None
            sender = [transferring.peer] if isinstance(transferring, Recv) else []
            raise ring_group.failure(
                f"waited for {_in_words(transferring, ring_group)} {where}", error, sender
            ) from error
        if ring_group.world_size > 1:
            ring_group.fail(f"rank {ring_group.names[ring_group.rank]} failed {where}: {in_words(error)}")
        raise


class Run:
    """One call on one rank.

    Args:
        programs: What all ranks do, proved.
        layout: What the ranks agreed on.
        transport: What carries messages.
        kernel: Local attention.
        q: This rank's queries.
        k: Its keys.
        v: Its values.
        key_mask: Which keys count, where items differ in that.
        observer: What is told of the call.
    """

    def __init__(
        self,
        programs: Sequence[RankProgram],
        layout: Layout,
        transport: Transport,
        kernel: KernelFunction,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: KeyMask | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.layout = layout
        self.transport = transport
        self.kernel = kernel
        self.device = q.device
        self.observer = observer or Observer()
        self.program = programs[transport.rank]
        self.transferring: Post | Recv | str | None = None  # what a broken transfer would be about
        slots = len(self.program.slots)
        self.tensors: list[tuple[Tensor, ...]] = [()] * slots  # of queries and keys
        self.tensors[OWN_Q], self.tensors[OWN_KV] = (q,), (k, v)
        self.buffers: list[tuple[Buffer, ...]] = [()] * slots
        self.arriving: list[tuple[Recv, Sequence[Handle]] | None] = [None] * slots
        self.sums: list[Accumulator | None] = [None] * slots
        self.own_items = _by_item(key_mask, k, v)
        self.sending: list[Handle] = []
        self.largest = max(q.nbytes, k.nbytes)  # bytes of a message that is sent from the caller's tensors, at most

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program from its first step to its last."""
        for _, step in self.program.steps:
            if isinstance(step, Post):
                self._post(step)
            elif isinstance(step, Kernel):
                if home_kv is not None:  # while the first blocks are under way
                    self._attend_home(home_kv, home_mask)
                    home_kv = None
                self._attend(step)
            elif isinstance(step, Pack):
                self._pack(step)
            elif isinstance(step, Merge):
                self._merge(step)
            else:
                self._concat(step)
        if home_kv is not None:
            self._attend_home(home_kv, home_mask)
        self._settle()
        return self._sum(RESULT).result(self.layout.spec.dtype)

    # -- slots -------------------------------------------------------------------------------------

    def _memory(self, slot: int) -> tuple[Buffer, ...]:
        """The memory of a slot, once nothing comes to it or leaves from it any more."""
        buffers = self.buffers[slot]
        pool = self.transport.pool
        if buffers:
            self._arrived(slot)
            for buffer in buffers:
                buffer.settle(pool.wait)
            return buffers
        form, shape, _ = self.program.slots[slot]
        if form is Form.PARTIAL:
            size = partial_form(shape, self.layout.spec.partial_dtype).size
            buffers = (pool.take((size,), torch.uint8, self.device),)
        else:
            buffers = tuple(pool.take(shape, self.layout.spec.dtype, self.device) for _ in range(form.tensors))
        self.buffers[slot] = buffers
        self.tensors[slot] = tuple(buffer.tensor for buffer in buffers)
        return buffers

    def _arrived(self, slot: int) -> None:
        """Wait for what comes to a slot."""
        arriving = self.arriving[slot]
        if arriving is not None:
            before, self.transferring = self.transferring, arriving[0]
            self.transport.wait_for(arriving[1], self.tensors[slot][0].nbytes)
            self.transferring, self.arriving[slot] = before, None

    def _read(self, part: Part) -> tuple[Tensor, ...]:
        """The tensors of queries or keys, once they are here."""
        slot, cut = part
        self._arrived(slot)
        if cut is None:
            return self.tensors[slot]
        low, high, first, last = cut
        return tuple(tensor[:, low:high, first:last] for tensor in self.tensors[slot])

    def _partial(self, slot: int) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp in the message of a slot."""
        form = partial_form(self.program.slots[slot].shape, self.layout.spec.partial_dtype)
        return self.buffers[slot][0].partial_views(form)

    def _sum(self, slot: int) -> Accumulator:
        total = self.sums[slot]
        if total is None:
            total = self.sums[slot] = Accumulator(self.program.slots[slot].shape, self.device)
        return total

    # -- transfers ---------------------------------------------------------------------------------

    def _post(self, post: Post) -> None:
        self.transferring = post
        places = [self._memory(recv.slot) for recv in post.recvs]
        payloads = [self._payload(part) for part in post.payloads]
        if post.collective is not None:
            self._collect(post, post.collective, places, [[tensor for tensor, _ in payload] for payload in payloads])
        else:
            self._transfer(post, places, payloads)
        self.transferring = None

    def _transfer(
        self, post: Post, places: list[tuple[Buffer, ...]], payloads: list[list[tuple[Tensor, Buffer | None]]]
    ) -> None:
        recvs = [
            Parcel(recv.channel, buffer.tensor, recv.peer)
            for recv, buffers in zip(post.recvs, places, strict=True)
            for buffer in buffers
        ]
        sends, readers = [], []
        for send in post.sends:
            for tensor, buffer in payloads[send.payload]:
                sends.append(Parcel(send.channel, tensor, send.peer))
                readers.append(self.sending if buffer is None else buffer.readers)
        works = self.observer.posting(post, self.transport.post, recvs, sends)
        at = 0
        for recv, buffers in zip(post.recvs, places, strict=True):
            self.arriving[recv.slot] = recv, works[at : at + len(buffers)]
            at += len(buffers)
        for reader, work in zip(readers, works[at:], strict=True):
            reader.append(work)

    def _collect(
        self, post: Post, kind: Collective, places: list[tuple[Buffer, ...]], payloads: list[list[Tensor]]
    ) -> None:
        channel = post.sends[0].channel
        with self.observer.doing(Activity.WAIT, f"the {kind.value} {channel}"):
            for number, own in enumerate(payloads[0]):  # keys, then values
                outputs = [buffers[number].tensor for buffers in places]
                if kind is Collective.ALL_GATHER:
                    self.transport.all_gather(channel, outputs, own)
                else:
                    inputs = [payloads[send.payload][number] for send in post.sends]
                    self.transport.all_to_all(channel, outputs, inputs)

    def _payload(self, part: Part) -> list[tuple[Tensor, Buffer | None]]:
        """Contiguous tensors of what goes, each with the buffer it lies in, if any."""
        tensors, buffers = self._read(part), self.buffers[part.slot]
        result: list[tuple[Tensor, Buffer | None]] = []
        for number, tensor in enumerate(tensors):
            contiguous = tensor.contiguous()
            result.append((contiguous, buffers[number] if buffers and contiguous is tensor else None))
        return result

    def _pack(self, step: Pack) -> None:
        self.transferring = f"room for {step.block}"
        self._memory(step.slot)
        self.transferring = None
        self._sum(step.source).write(*self._partial(step.slot))
        self.sums[step.source] = None

    def _settle(self) -> None:
        """Wait until the caller may overwrite its tensors."""
        pool = self.transport.pool
        self.transferring = "the end of its sends"
        for slot, buffers in enumerate(self.buffers):
            if buffers:
                self._arrived(slot)  # here, even where nothing needed it
                for buffer in buffers:
                    pool.give(buffer)
        self.transport.wait_for(self.sending, self.largest)
        if self.device.type == "cuda":
            # Torch's allocator keeps the memory at hand, and it alone knows whether a CUDA graph will use it again.
            pool.clear()
        else:
            pool.settle()
        self.transferring = None

    # -- computation -------------------------------------------------------------------------------

    def _concat(self, step: Concat) -> None:
        with self.observer.doing(Activity.MERGE, step):
            parts = [self._read(part) for part in step.parts]
            for buffer, tensors in zip(self._memory(step.slot), zip(*parts, strict=True), strict=True):
                torch.cat(tensors, dim=2, out=buffer.tensor)

    def _attend(self, step: Kernel) -> None:
        with self.observer.doing(Activity.ATTEND, step):
            (q,) = self._read(step.queries)
            if self.own_items is None:
                items = [self._read(step.keys)]
            else:
                low, high = step.keys.cut[:2] if step.keys.cut is not None else (None, None)
                items = [(k[:, low:high], v[:, low:high]) for k, v in self.own_items]
            found = self._call(q, items, step.causal)
            if found is None:
                return
            for slot, cut, rows in step.targets:
                out, lse = found
                if rows is not None:
                    out, lse = out[:, :, slice(*rows)], lse[:, :, slice(*rows)]
                self._sum(slot).add(out, lse, cut, owned=True)

    def _attend_home(self, home_kv: tuple[Tensor, Tensor], home_mask: KeyMask | None) -> None:
        with self.observer.doing(Activity.ATTEND, f"{q_block(self.transport.rank)} to home keys"):
            (q,) = self.tensors[OWN_Q]
            found = self._call(q, _by_item(home_mask, *home_kv) or [home_kv], False)
            if found is not None:
                self._sum(RESULT).add(*found, owned=True)

    def _call(self, q: Tensor, items: Sequence[tuple[Tensor, ...]], causal: bool) -> tuple[Tensor, Tensor] | None:
        """Attend keys and values that all items of the batch share, or a list of those of each item."""
        if len(items) == 1:
            k, v = items[0]
            return self._kernel(q, k, v, causal)
        out = q.new_zeros(q.shape)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
        for item, (k, v) in enumerate(items):
            partial = self._kernel(q[item : item + 1], k, v, causal)
            if partial is not None:
                out[item : item + 1], lse[item : item + 1] = partial
        return out, lse

    def _kernel(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor] | None:
        """Output and log-sum-exp, or ``None`` where there is nothing to attend: kernels take no empty blocks."""
        if not q.numel() or not k.numel():
            return None
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        out, lse = self.kernel(q, k, v, scale=self.layout.spec.scale, causal=causal)
        return out, lse.float()

    def _merge(self, step: Merge) -> None:
        with self.observer.doing(Activity.MERGE, step):
            for partial in step.partials:
                self._arrived(partial.slot)
            total = self._sum(RESULT)
            if len(step.partials) == 1:
                (partial,) = step.partials
                total.add(*self._partial(partial.slot), partial.cut, owned=False)
            else:
                total.add_all([(*self._partial(partial.slot), partial.cut) for partial in step.partials])


def _in_words(transferring: Post | Recv | str | None, group: RingGroup) -> str:
    if isinstance(transferring, Recv):
        return f"{transferring} from rank {group.names[transferring.peer]}"
    if isinstance(transferring, Post):
        return f"room for {transferring}"
    return transferring or "messages that still leave"


def _by_item(mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """The keys and values of each item of the batch, where the items hide different ones."""
    if mask is None or not mask.ragged:
        return None
    return [mask.item(item, k, v) for item in range(k.shape[0])]
