"""Runs a proved schedule: posts its exchanges, attends, merges; knows no schedule by name.

Within an exchange receives are posted before sends (gloo runs an exchange between two ranks
half-duplex otherwise), and arrival is waited for at the first use of what arrives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.buffers import Buffer
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.kernels import KernelFunction
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.merge import Running
from tokenring_xdit.attention.messages import PartialForm
from tokenring_xdit.attention.program import OWN_KV, OWN_Q, Fold, Join, Meet, Place, Post, Receive, prepare
from tokenring_xdit.attention.tracing import active_trace
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.schedule import Channel, VerifiedSchedule

__all__ = ["Run", "execute"]


class _Held:
    """The tensors of a block: this rank's own, or received ones with what to wait for."""

    __slots__ = ("buffers", "receive", "size", "tensors", "works")

    def __init__(
        self, tensors: tuple[Tensor, ...], buffers: Sequence[Buffer] = (), receive: Receive | None = None
    ) -> None:
        self.tensors = tensors
        self.buffers = buffers
        self.receive = receive
        self.size = tensors[0].nbytes if receive is not None else 0  # of each message
        self.works: list[dist.Work] = []


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
        home_kv: Keys and values that every rank holds alike; each query meets them once, at home.
        key_mask: Which keys of this rank count, where the items of the batch differ in that. Other masks
            have been applied before.
        home_mask: The same for ``home_kv``.

    Returns:
        Output ``[B, H, Sq, D]`` in the dtype of ``q``, log-sum-exp ``[B, H, Sq]`` in fp32.

    Raises:
        CommunicationError: A transfer failed, or the rank did on which it waits.
        Exception: Whatever the kernel raised. After any error the group is given up.
    """
    run_of: Callable[..., Run] = Run
    trace = active_trace()
    if trace is not None:
        from tokenring_xdit.attention.traced import TracedRun  # which builds on this module

        run_of = partial(TracedRun, trace)
    run: Run | None = None
    try:
        run = run_of(verified, layout, ring_group, kernel, q, k, v, key_mask)
        return run.run(home_kv, home_mask)
    except BaseException as error:
        # Transfers are under way: what comes next on these channels would meet what this call left.
        where = f"in schedule '{verified.schedule.name}'"
        if isinstance(error, Broken):
            transferring = run.transferring if run is not None else None
            sender = [transferring.peer] if isinstance(transferring, Receive) else []
            raise ring_group.failure(
                f"waited for {_in_words(transferring, ring_group)} {where}", error, sender
            ) from error
        if ring_group.world_size > 1:
            ring_group.fail(f"rank {ring_group.names[ring_group.rank]} failed {where}: {in_words(error)}")
        raise


class Run:
    """One call on one rank."""

    def __init__(
        self,
        verified: VerifiedSchedule,
        layout: Layout,
        ring_group: RingGroup,
        kernel: KernelFunction,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: KeyMask | None,
    ) -> None:
        self.verified = verified
        self.layout = layout
        self.group = ring_group
        self.kernel = kernel
        self.rank = ring_group.rank
        self.device = q.device
        self.program = prepare(verified, layout, self.rank, ring_group.receives_early)
        self.transferring: Post | Receive | str | None = None  # what a broken transfer would be about
        self.result = Running(tuple(q.shape), q.device)
        self.held: list[_Held | None] = [None] * self.program.places
        self.held[OWN_Q], self.held[OWN_KV] = _Held((q,)), _Held((k, v))
        self.own_items = _by_item(key_mask, k, v)
        self.guests: dict[int, Running] = {}  # partial outputs of other ranks' queries, built here
        self.away: deque[tuple[int, Buffer]] = deque()  # partial outputs on their way home, by number of exchange
        self.sending: list[dist.Work] = []
        self.largest = max(q.nbytes, k.nbytes)  # bytes of a message that is sent from the caller's tensors, at most

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program from its first action to its last."""
        for index, step, over in self.program.steps:
            if isinstance(step, Post):
                self._transfer(index, step)
            elif isinstance(step, Join):
                self._join(step)
            elif isinstance(step, Meet):
                if home_kv is not None:  # while the first blocks are under way
                    self._meet_home(home_kv, home_mask)
                    home_kv = None
                self._meet(step)
            else:
                self._fold(step)
                self._reclaim(step.exchange)
            for place in over:
                self._release(place)
        if home_kv is not None:
            self._meet_home(home_kv, home_mask)
        self._reclaim(len(self.verified.schedule.programs[self.rank]))
        self._settle()
        return self.result.result(self.layout.spec.dtype)

    # -- transfers ---------------------------------------------------------------------------------

    def _transfer(self, index: int, post: Post) -> None:
        self.transferring = post
        pool, device = self.group.pool, self.device
        incoming: list[tuple[Tensor, int]] = []
        for receive in post.receives:
            buffers = [pool.take(shape, dtype, device) for shape, dtype in receive.messages]
            tensors = tuple(buffer.tensor for buffer in buffers)
            self.held[receive.place] = _Held(tensors, buffers, receive)
            incoming += [(tensor, receive.peer) for tensor in tensors]
        payloads = [
            self._find_payload(payload)
            if isinstance(payload, Place)
            else self._pack(index, payload.guest, payload.form)
            for payload in post.payloads
        ]
        outgoing = [(*part, send.peer) for send in post.sends for part in payloads[send.payload]]
        works = iter(self._hand_over(post.channel, incoming, [(tensor, peer) for tensor, _, peer in outgoing]))
        for receive in post.receives:
            held = self.held[receive.place]
            assert held is not None
            held.works = [next(works) for _ in held.buffers]
        for (_, buffer, _), work in zip(outgoing, works, strict=True):
            (self.sending if buffer is None else buffer.readers).append(work)
        self.transferring = None

    def _hand_over(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """Post messages; a traced call watches them."""
        return self.group.post(channel, recvs, sends)

    def _find_payload(self, place: Place) -> list[tuple[Tensor, Buffer | None]]:
        """Contiguous tensors of queries or keys, each with the buffer it lies in, if any."""
        tensors, buffers = self._find(place), self._at(place.number).buffers
        result: list[tuple[Tensor, Buffer | None]] = []
        for number, tensor in enumerate(tensors):
            contiguous = tensor.contiguous()
            result.append((contiguous, buffers[number] if buffers and contiguous is tensor else None))
        return result

    def _pack(self, index: int, guest: int, form: PartialForm) -> list[tuple[Tensor, Buffer | None]]:
        buffer = self.group.pool.take((form.size,), torch.uint8, self.device)
        self._guest(guest).write(*buffer.partial_views(form))
        del self.guests[guest]
        self.away.append((index, buffer))
        return [(buffer.tensor, buffer)]

    def _reclaim(self, number: int) -> None:
        """Hand back the messages of all exchanges up to one whose partial output has come.

        Those are as old, so the plan has left time for them as well; ``take`` waits for what is not over.
        """
        while self.away and self.away[0][0] <= number:
            self.group.pool.give(self.away.popleft()[1])

    def _at(self, number: int) -> _Held:
        """What is held at a place, once it is here."""
        held = self.held[number]
        assert held is not None
        if held.works:
            before, self.transferring = self.transferring, held.receive
            self.group.pool.wait(held.works, held.size)
            self.transferring = before
            held.works.clear()
        return held

    def _find(self, place: Place) -> tuple[Tensor, ...]:
        """The tensors of a block of queries or keys, once it is here."""
        tensors, cut = self._at(place.number).tensors, place.cut
        return tensors if cut is None else tuple(tensor[cut] for tensor in tensors)

    def _release(self, number: int) -> None:
        for buffer in self._at(number).buffers:  # here, even where nothing needed it
            self.group.pool.give(buffer)  # its transfers out may go on; take() waits for them
        self.held[number] = None

    def _settle(self) -> None:
        """Wait until the caller may overwrite its tensors."""
        self.transferring = "the end of its sends"
        self.group.pool.wait(self.sending, self.largest)
        if self.device.type == "cuda":
            # Torch's allocator keeps the memory at hand, and it alone knows whether a CUDA graph will use it again.
            self.group.pool.clear()
        else:
            self.group.pool.settle()
        self.transferring = None

    # -- computation -------------------------------------------------------------------------------

    def _join(self, step: Join) -> None:
        parts = [self._find(part) for part in step.parts]
        buffers = [self.group.pool.take(step.shape, k.dtype, self.device) for k in parts[0]]
        for tensors, buffer in zip(zip(*parts, strict=True), buffers, strict=True):
            torch.cat(tensors, dim=2, out=buffer.tensor)
        self.held[step.place] = _Held(tuple(buffer.tensor for buffer in buffers), buffers)

    def _meet(self, step: Meet) -> None:
        (q,) = self._find(step.q)
        if self.own_items is None:
            k, v = self._find(step.kv)
            items = [(k, v)]
        else:
            items = [(k[:, step.kv_heads], v[:, step.kv_heads]) for k, v in self.own_items]
        into = self.result if step.guest is None else self._guest(step.guest)
        self._attend(q, items, step.causal, into, step.part)

    def _guest(self, number: int) -> Running:
        if number not in self.guests:
            self.guests[number] = Running(self.program.guest_shapes[number], self.device)
        return self.guests[number]

    def _meet_home(self, home_kv: tuple[Tensor, Tensor], home_mask: KeyMask | None) -> None:
        (q,) = self._at(OWN_Q).tensors
        self._attend(q, _by_item(home_mask, *home_kv) or [home_kv], False, self.result, None)

    def _attend(
        self,
        q: Tensor,
        items: list[tuple[Tensor, Tensor]],
        causal: bool,
        into: Running,
        part: tuple[slice, slice] | None,
    ) -> None:
        """Attend keys and values that all items of the batch share, or a list of those of each item."""
        if len(items) == 1:
            partial = self._kernel(q, *items[0], causal)
            if partial is not None:
                into.fold(*partial, part, owned=True)
            return
        out = q.new_zeros(q.shape)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
        for item, (k, v) in enumerate(items):
            partial = self._kernel(q[item : item + 1], k, v, causal)
            if partial is not None:
                out[item : item + 1], lse[item : item + 1] = partial
        into.fold(out, lse, part, owned=True)

    def _kernel(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor] | None:
        """Output and log-sum-exp, or ``None`` where there is nothing to attend: kernels take no empty blocks."""
        if not q.numel() or not k.numel():
            return None
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        out, lse = self.kernel(q, k, v, scale=self.layout.spec.scale, causal=causal)
        return out, lse.float()

    def _fold(self, step: Fold) -> None:
        (buffer,) = self._at(step.place).buffers
        self.result.fold(*buffer.partial_views(step.form), step.part, owned=False)


def _in_words(transferring: Post | Receive | str | None, group: RingGroup) -> str:
    if isinstance(transferring, Receive):
        return f"block {transferring.block} from rank {group.names[transferring.peer]}"
    if isinstance(transferring, Post):
        return f"room for an exchange on channel {transferring.channel.value}"
    return transferring or "messages that still leave"


def _by_item(mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """The keys and values of each item of the batch, where the items hide different ones."""
    if mask is None or not mask.ragged:
        return None
    return [mask.item(item, k, v) for item in range(k.shape[0])]
