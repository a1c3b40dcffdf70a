"""Runs a proved schedule: posts its exchanges, attends, merges; knows no schedule by name.

Within an exchange receives are posted before sends (gloo runs an exchange between two ranks
half-duplex otherwise), and arrival is waited for at the first use of what arrives. A partial output
and its log-sum-exp travel as one message.
"""

from __future__ import annotations

import math
from functools import lru_cache
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
from tokenring_xdit.errors import CommunicationError
from tokenring_xdit.schedule import (
    Action,
    Attend,
    Block,
    Exchange,
    Kind,
    Mask,
    Transfer,
    VerifiedSchedule,
    kv_block,
    q_block,
)

__all__ = ["execute"]

_ALIGNMENT = 16
"""Bytes: the log-sum-exp behind a partial output starts at a multiple of this."""


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
    run = _Run(verified, layout, ring_group, kernel, q, k, v, key_mask)
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


class _Run:
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
        self.packed: dict[Block, Buffer] = {}  # messages made for an exchange that is being posted
        self.sending: list[dist.Work] = []

    def run(self, home_kv: tuple[Tensor, Tensor] | None, home_mask: KeyMask | None) -> tuple[Tensor, Tensor]:
        """Execute the program from its first action to its last."""
        program = self.schedule.programs[self.rank]
        expiring = _last_uses(self.verified, self.rank)
        for index, action in enumerate(program):
            if isinstance(action, Exchange):
                self._post(action)
            elif isinstance(action, Attend):
                if home_kv is not None:  # while the first blocks are under way
                    self._meet_home(home_kv, home_mask)
                    home_kv = None
                self._attend(action)
            else:
                self._merge(action.partial)
            for block in expiring.get(index, ()):
                self._release(block)
        if home_kv is not None:
            self._meet_home(home_kv, home_mask)
        self._settle()
        return self.result.result(self.layout.spec.dtype)

    # -- transfers ---------------------------------------------------------------------------------

    def _post(self, exchange: Exchange) -> None:
        self.transferring = f"an exchange on channel {exchange.channel.value}"
        channel = self.group.channel(exchange.channel)
        operations: list[dist.P2POp] = []
        receiving: list[tuple[Block, list[Buffer]]] = []
        for t in exchange.recvs:
            buffers = [self.group.pool.take(shape, dtype, self.device) for shape, dtype in self._messages(t.block)]
            receiving.append((t.block, buffers))
            operations += self._operations(dist.irecv, [b.tensor for b in buffers], t, channel)
        outgoing: list[tuple[Tensor, Buffer | None]] = []
        for t in exchange.sends:
            payload = self._outgoing(t.block)
            outgoing += [(tensor, buffer) for tensor, buffer in payload if tensor.numel()]
            operations += self._operations(dist.isend, [tensor for tensor, _ in payload], t, channel)
        works = dist.batch_isend_irecv(operations) if operations else []

        # gloo returns one handle an operation, a coalescing backend one for the whole batch.
        each = len(works) == len(operations)
        position = 0
        for block, buffers in receiving:
            count = sum(1 for buffer in buffers if buffer.tensor.numel())
            own = works[position : position + count] if each else works
            self.received[block] = _Arrival(buffers, list(own))
            position += count
        for offset, (tensor, origin) in enumerate(outgoing):
            work = works[position + offset] if each else works[0]
            self.group.bytes_sent += tensor.nbytes
            (self.sending if origin is None else origin.readers).append(work)
        for t in exchange.sends:
            if t.block in self.packed:
                self.group.pool.give(self.packed.pop(t.block))  # taken again once its transfer is over
        self.transferring = None

    def _operations(
        self, operation: object, tensors: list[Tensor], transfer: Transfer, channel: dist.ProcessGroup
    ) -> list[dist.P2POp]:
        peer = self.group.peers[transfer.peer]
        # Empty messages are left out on both sides: both know the lengths.
        return [dist.P2POp(operation, tensor, peer, group=channel) for tensor in tensors if tensor.numel()]  # type: ignore[arg-type]

    def _messages(self, block: Block) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each message that carries a block."""
        spec = self.layout.spec
        if block.kind is Kind.O:
            _, total = self._partial_bytes(block)
            return [((total,), torch.uint8)]
        length, heads = self._extent(block)
        shape = (spec.batch, heads, length, spec.head_dim)
        return [(shape, spec.dtype)] * (1 if block.kind is Kind.Q else 2)

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
        out, lse = self.guests.pop(block).result(self.layout.spec.partial_dtype)
        _, total = self._partial_bytes(block)
        buffer = self.group.pool.take((total,), torch.uint8, self.device)
        packed_out, packed_lse = self._partial_views(buffer.tensor, block)
        packed_out.copy_(out)
        packed_lse.copy_(lse)
        self.packed[block] = buffer
        return buffer.tensor, buffer

    def _partial_bytes(self, block: Block) -> tuple[int, int]:
        """Where the log-sum-exp starts, and where the message ends."""
        length, heads = self._extent(block)
        rows = self.layout.spec.batch * heads * length
        size = rows * self.layout.spec.head_dim * self.layout.spec.partial_dtype.itemsize
        offset = -(-size // _ALIGNMENT) * _ALIGNMENT
        return offset, (offset + rows * torch.float32.itemsize) if rows else 0

    def _partial_views(self, message: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        spec = self.layout.spec
        length, heads = self._extent(block)
        shape = (spec.batch, heads, length)
        offset, _ = self._partial_bytes(block)
        size = spec.batch * heads * length * spec.head_dim * spec.partial_dtype.itemsize
        out = message[:size].view(spec.partial_dtype).view(*shape, spec.head_dim)
        return out, message[offset:].view(torch.float32).view(shape)

    def _extent(self, block: Block) -> tuple[int, int]:
        """Tokens and heads of a block."""
        tokens, heads = self._slices(block)
        return tokens.stop - tokens.start, heads.stop - heads.start

    def _slices(self, block: Block) -> tuple[slice, slice]:
        """Where a block lies in its owner's tensors: tokens and heads."""
        spec = self.layout.spec
        keys = block.kind is Kind.KV
        lengths, heads = (self.layout.kv_lengths, spec.kv_heads) if keys else (self.layout.q_lengths, spec.heads)
        return slice(*block.tokens.bounds(lengths[block.owner])), slice(*block.heads.bounds(heads))

    def _find(self, block: Block) -> tuple[list[Tensor], list[Buffer | None]]:
        """The tensors of a block of queries or keys, once it is here, and the buffers they lie in."""
        for held, tensors in self.own.items():
            if held.covers(block):
                return [self._cut(t, held, block) for t in tensors], [None] * len(tensors)
        for held in self.received:
            if held.covers(block):
                buffers = self._await(held)
                return [self._cut(b.tensor, held, block) for b in buffers], list(buffers)
        raise AssertionError(f"{block} is not here: the schedule was not proved")

    def _cut(self, tensor: Tensor, held: Block, block: Block) -> Tensor:
        if held == block:
            return tensor
        (tokens, heads), (base_tokens, base_heads) = self._slices(block), self._slices(held)
        return tensor[
            :,
            heads.start - base_heads.start : heads.stop - base_heads.start,
            tokens.start - base_tokens.start : tokens.stop - base_tokens.start,
        ]

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
            items = self.own_items
        else:
            (k, v), _ = self._find(action.kv)
            if action.kv.heads != action.q.heads:
                q, k, v = self._same_heads(action, q, k, v)
            items = [(k, v)]
        partial = action.partial(self.rank)
        if partial.owner == self.rank:
            tokens, heads = self._slices(partial)
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
            return self._cut(q, action.q, q_block(action.q.owner, tokens=action.q.tokens, heads=kv_heads)), k, v
        narrow = kv_block(action.kv.owner, tokens=action.kv.tokens, heads=q_heads)
        return q, self._cut(k, action.kv, narrow), self._cut(v, action.kv, narrow)

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
            out, lse = self._partial_views(buffer.tensor, block)
            tokens, heads = self._slices(block)
            self.result.fold(out, lse, heads, tokens, owned=False)


def _by_item(mask: KeyMask | None, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """The keys and values of each item of the batch, where the items hide different ones."""
    if mask is None or not mask.ragged:
        return None
    return [mask.item(item, k, v) for item in range(k.shape[0])]


@lru_cache(maxsize=256)
def _last_uses(verified: VerifiedSchedule, rank: int) -> dict[int, list[Block]]:
    """For each action of a rank, the received blocks that nothing after it uses."""
    program = verified.schedule.programs[rank]
    received = [t.block for action in program if isinstance(action, Exchange) for t in action.recvs]
    expiring: dict[int, list[Block]] = {}
    for block in received:
        uses = [index for index, action in enumerate(program) if any(block.covers(b) for b in _used(action))]
        arrived = next(
            i for i, a in enumerate(program) if isinstance(a, Exchange) and block in [t.block for t in a.recvs]
        )
        expiring.setdefault(max([*uses, arrived]), []).append(block)
    return expiring


def _used(action: Action) -> list[Block]:
    if isinstance(action, Exchange):
        return [t.block for t in action.sends if t.block.kind is not Kind.O]
    if isinstance(action, Attend):
        return [action.q, action.kv]
    return [action.partial]
