"""Runs a proved schedule: posts its exchanges, attends, merges; knows no schedule by name.

Within an exchange receives are posted before sends (gloo runs an exchange between two ranks
half-duplex otherwise), and arrival is waited for at the first use of what arrives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.buffers import Buffer
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.kernels import KernelFunction
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.merge import Running
from tokenring_xdit.attention.messages import messages_of
from tokenring_xdit.attention.tracing import active_trace
from tokenring_xdit.errors import CommunicationError
from tokenring_xdit.schedule import (
    Attend,
    Block,
    Channel,
    Exchange,
    Kind,
    Mask,
    Transfer,
    VerifiedSchedule,
    kv_block,
    q_block,
)
from tokenring_xdit.schedule.foresight import last_uses, next_receives

__all__ = ["Run", "execute"]


class _Arrival(NamedTuple):
    """Blocks on their way, or here already: their buffers and what to wait for."""

    buffers: list[Buffer]
    works: list[dist.Work]


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
        CommunicationError: A transfer failed.
        Exception: Whatever the kernel raised. After any error the group is given up.
    """
    run_of: Callable[..., Run] = Run
    trace = active_trace()
    if trace is not None:
        from tokenring_xdit.attention.traced import TracedRun  # which builds on this module

        run_of = partial(TracedRun, trace)
    run = run_of(verified, layout, ring_group, kernel, q, k, v, key_mask)
    try:
        return run.run(home_kv, home_mask)
    except BaseException as error:
        # Transfers are under way: what comes next on these channels would meet what this call left.
        doing = f" at {run.transferring}" if run.transferring is not None else ""
        message = f"rank {ring_group.rank} failed in schedule '{verified.schedule.name}'{doing}: {error}"
        if ring_group.world_size > 1:
            ring_group.fail(message)
        if run.transferring is not None and isinstance(error, RuntimeError):
            raise CommunicationError(
                f"{message}. A peer died, failed, or called attention with other shapes"
            ) from error
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
        self.schedule = verified.schedule
        self.layout = layout
        self.messages = messages_of(layout)
        self.group = ring_group
        self.kernel = kernel
        self.rank = ring_group.rank
        self.device = q.device
        self.transferring: str | None = None  # what a RuntimeError of torch.distributed would be about
        self.result = Running(tuple(q.shape), q.device)
        self.own: dict[Block, tuple[Tensor, ...]] = {q_block(self.rank): (q,), kv_block(self.rank): (k, v)}
        self.own_items = _by_item(key_mask, k, v)
        self.received: dict[Block, _Arrival] = {}
        self.guests: dict[Block, Running] = {}  # partial outputs of other ranks' queries, built here
        self.packed: list[Buffer] = []  # partial outputs of the exchange that is being posted
        self.away: deque[tuple[int, Buffer]] = deque()  # partial outputs on their way home, by number of exchange
        self.number: dict[Block, int] = {}  # of the exchange that brings a partial output
        self.sending: list[dist.Work] = []

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program from its first action to its last."""
        program = self.schedule.programs[self.rank]
        expiring, early = _foresight(self.verified, self.rank)
        if not self.group.receives_early:
            early = {}
        for index, action in enumerate(program):
            if isinstance(action, Exchange):
                self._post(index, action)
                for later in early.get(index, ()):
                    self._transfer(later.channel, later.recvs, ())
            elif isinstance(action, Attend):
                if home_kv is not None:  # while the first blocks are under way
                    self._meet_home(home_kv, home_mask)
                    home_kv = None
                self._attend(action)
            else:
                self._merge(action.partial)
                self._reclaim(self.number[action.partial])
            for block in expiring.get(index, ()):
                self._release(block)
        if home_kv is not None:
            self._meet_home(home_kv, home_mask)
        self._reclaim(len(program))
        self._settle()
        return self.result.result(self.layout.spec.dtype)

    # -- transfers ---------------------------------------------------------------------------------

    def _post(self, index: int, exchange: Exchange) -> None:
        recvs = [t for t in exchange.recvs if t.block not in self.received]  # others were posted early
        self._transfer(exchange.channel, recvs, exchange.sends)
        self.number.update((t.block, index) for t in exchange.recvs if t.block.kind is Kind.O)
        self.away.extend((index, buffer) for buffer in self.packed)
        self.packed.clear()

    def _transfer(self, channel: Channel, recvs: Sequence[Transfer], sends: Sequence[Transfer]) -> None:
        self.transferring = f"an exchange on channel {channel.value}"
        # Empty messages are left out on both sides: both know the lengths.
        incoming: list[tuple[Tensor, int]] = []
        for t in recvs:
            buffers = [
                self.group.pool.take(shape, dtype, self.device) for shape, dtype in self.messages.shapes(t.block)
            ]
            self.received[t.block] = _Arrival(buffers, [])
            incoming += [(buffer.tensor, t.peer) for buffer in buffers if buffer.tensor.numel()]
        payloads = {block: self._outgoing(block) for block in dict.fromkeys(t.block for t in sends)}
        outgoing = [(*part, t.peer) for t in sends for part in payloads[t.block] if part[0].numel()]
        works = iter(self._hand_over(channel, incoming, [(tensor, peer) for tensor, _, peer in outgoing]))
        for t in recvs:
            arrival = self.received[t.block]
            arrival.works.extend(next(works) for buffer in arrival.buffers if buffer.tensor.numel())
        for (_, buffer, _), work in zip(outgoing, works, strict=True):
            (self.sending if buffer is None else buffer.readers).append(work)
        self.transferring = None

    def _hand_over(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """Post messages; a traced call watches them."""
        return self.group.post(channel, recvs, sends)

    def _outgoing(self, block: Block) -> list[tuple[Tensor, Buffer | None]]:
        """Contiguous tensors that carry a block, each with the buffer it lies in, if any."""
        if block.kind is Kind.O:
            return [self._pack(block)]
        tensors, buffers = self._find(block)
        result: list[tuple[Tensor, Buffer | None]] = []
        for tensor, buffer in zip(tensors, buffers, strict=True):
            contiguous = tensor.contiguous()
            result.append((contiguous, buffer if contiguous is tensor else None))
        return result

    def _pack(self, block: Block) -> tuple[Tensor, Buffer]:
        ((shape, dtype),) = self.messages.shapes(block)
        buffer = self.group.pool.take(shape, dtype, self.device)
        self.guests.pop(block).write(*self.messages.partial_views(buffer.tensor, block))
        self.packed.append(buffer)
        return buffer.tensor, buffer

    def _reclaim(self, number: int) -> None:
        """Hand back the messages of all exchanges up to one whose partial output has come.

        Those are as old, so the plan has left time for them as well; ``take`` waits for what is not over.
        """
        while self.away and self.away[0][0] <= number:
            self.group.pool.give(self.away.popleft()[1])

    def _find(self, block: Block) -> tuple[list[Tensor], list[Buffer | None]]:
        """The tensors of a block of queries or keys, once it is here, and the buffers they lie in."""
        for held, tensors in self.own.items():
            if held.covers(block):
                return [self.messages.cut(t, held, block) for t in tensors], [None] * len(tensors)
        held = block if block in self.received else next(held for held in self.received if held.covers(block))
        buffers = self._await(held)
        return [self.messages.cut(b.tensor, held, block) for b in buffers], list(buffers)

    def _await(self, block: Block) -> list[Buffer]:
        arrival = self.received[block]
        if arrival.works:
            before, self.transferring = self.transferring, f"the arrival of {block}"
            for work in arrival.works:
                work.wait()
            self.transferring = before
            arrival.works.clear()
        return arrival.buffers

    def _release(self, block: Block) -> None:
        if block in self.received:
            for buffer in self.received.pop(block).buffers:
                self.group.pool.give(buffer)  # its transfers out may go on; take() waits for them

    def _settle(self) -> None:
        """Wait until the caller may overwrite its tensors."""
        self.transferring = "the end of its sends"
        for work in self.sending:
            work.wait()
        self.group.pool.settle()
        self.transferring = None

    # -- computation -------------------------------------------------------------------------------

    def _attend(self, action: Attend) -> None:
        (q,), _ = self._find(action.q)
        if self.own_items is not None:
            _, heads = self.messages.slices(kv_block(self.rank, heads=action.q.heads))
            items = [(k[:, heads], v[:, heads]) for k, v in self.own_items]
        else:
            (k, v), _ = self._find(action.kv)
            if action.kv.heads != action.q.heads:
                q, k, v = self._same_heads(action, q, k, v)
            items = [(k, v)]
        partial = action.partial(self.rank)
        if partial.owner == self.rank:
            tokens, heads = self.messages.slices(partial)
            self._meet(q, items, action.mask, self.result, heads, tokens)
            return
        if partial not in self.guests:
            self.guests[partial] = Running(tuple(q.shape), q.device)
        self._meet(q, items, action.mask, self.guests[partial], slice(None), slice(None))

    def _meet_home(self, home_kv: tuple[Tensor, Tensor], home_mask: KeyMask | None) -> None:
        (q,) = self.own[q_block(self.rank)]
        self._meet(q, _by_item(home_mask, *home_kv) or [home_kv], Mask.FULL, self.result, slice(None), slice(None))

    def _same_heads(self, action: Attend, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the wider of the two blocks to the heads of the narrower."""
        q_heads, kv_heads = action.q.heads, action.kv.heads
        if q_heads.covers(kv_heads):
            return self.messages.cut(q, action.q, q_block(action.q.owner, tokens=action.q.tokens, heads=kv_heads)), k, v
        narrow = kv_block(action.kv.owner, tokens=action.kv.tokens, heads=q_heads)
        return q, self.messages.cut(k, action.kv, narrow), self.messages.cut(v, action.kv, narrow)

    def _meet(
        self, q: Tensor, items: list[tuple[Tensor, Tensor]], mask: Mask, into: Running, heads: slice, tokens: slice
    ) -> None:
        """Attend keys and values that all items of the batch share, or a list of those of each item."""
        if len(items) == 1:
            partial = self._kernel(q, *items[0], mask)
            if partial is not None:
                into.fold(*partial, heads, tokens, owned=True)
            return
        out = q.new_zeros(q.shape)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
        for item, (k, v) in enumerate(items):
            partial = self._kernel(q[item : item + 1], k, v, mask)
            if partial is not None:
                out[item : item + 1], lse[item : item + 1] = partial
        into.fold(out, lse, heads, tokens, owned=True)

    def _kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> tuple[Tensor, Tensor] | None:
        """Output and log-sum-exp, or ``None`` where there is nothing to attend: kernels take no empty blocks."""
        if not q.numel() or not k.numel():
            return None
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        out, lse = self.kernel(q, k, v, scale=self.layout.spec.scale, causal=mask is Mask.CAUSAL)
        return out, lse.float()

    def _merge(self, block: Block) -> None:
        (buffer,) = self._await(block)
        if buffer.tensor.numel():
            out, lse = self.messages.partial_views(buffer.tensor, block)
            tokens, heads = self.messages.slices(block)
            self.result.fold(out, lse, heads, tokens, owned=False)


@lru_cache(maxsize=256)
def _foresight(verified: VerifiedSchedule, rank: int) -> tuple[dict[int, list[Block]], dict[int, list[Exchange]]]:
    program = verified.schedule.programs[rank]
    return last_uses(program), next_receives(program)


def _by_item(mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """The keys and values of each item of the batch, where the items hide different ones."""
    if mask is None or not mask.ragged:
        return None
    return [mask.item(item, k, v) for item in range(k.shape[0])]
