"""What travels where attention needs keys of other ranks: keys, queries and partial outputs, or partial outputs only.

All places are known to all ranks, so each works out by itself what comes and what goes; nothing is negotiated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import exchange
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.executor import run_program
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.member import failing_together
from tokenring_xdit.attention.merge import Accumulator, merge
from tokenring_xdit.attention.observe import Observer
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.hosts.transformers.kernels import Scores, attend
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.pairs import Plan, Slice
from tokenring_xdit.planning.phases import candidates
from tokenring_xdit.planning.straight import Way, lighter, proved_straight
from tokenring_xdit.schedule import Channel
from tokenring_xdit.schedule.lower.program import KernelCall
from tokenring_xdit.schedule.problem import Problem

__all__ = ["Exchanges", "PlacedAttention", "attend_slice"]

_PATIENCE = 10.0
"""Seconds for which the first rank plans a prompt, about, while the others wait: of many ranks it takes minutes."""

_CHANNELS = (Channel.Q, Channel.KV, Channel.O)


class Exchanges:
    """The ranks of a model, and what they send each other; made by all of them together.

    Args:
        group: The process group; ``None`` is the default group.
        device: Where the model is.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self.group = RingGroup.of(group)
        exchange(group, None, "the beginning of context parallelism")
        if self.ranks > 1:
            self.group.transports.open([(channel, False) for channel in _CHANNELS], device)

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self.group.rank

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.group.world_size

    @property
    def bytes_sent(self) -> int:
        """What this rank has sent for attention since the program started."""
        return self.group.bytes_sent

    def gather(self, own: Tensor, what: str) -> list[Tensor]:
        """The tensors of all ranks, in order of rank; one collective.

        Args:
            own: Of one shape on all ranks.
            what: What is gathered, for messages.
        """
        if self.ranks == 1:
            return [own]
        with self._call(what):
            own = own.contiguous()[None]
            coming = own.new_empty(self.ranks, *own.shape[1:])
            self.group.messages.all_gather(Channel.O.value, coming, own)
        return [*coming]

    def plan(self, turn: LayerTurn, dtype: torch.dtype, device: torch.device) -> str | None:
        """The strategy that is predicted to be the fastest for a layer; all ranks ask, and hear the first one's word.

        Args:
            turn: What is computed.
            dtype: Dtype of queries and keys.
            device: Where.

        Returns:
            What :func:`~tokenring_xdit.planning.phases.candidates` calls it; ``None`` where nothing is known of the
            network.
        """
        with self._call("choosing a strategy"):
            return AutoSchedule.of(self.group).planned(
                lambda network, machine, effects: candidates(turn, network, machine, effects, _PATIENCE)[0].name,
                device,
                dtype,
                turn.heads,
                turn.head_dim,
            )

    def attend_everywhere(
        self, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of queries that every rank has, over keys that each holds a part of: one collective.

        Partial outputs are folded in order of rank, so that all ranks have the same bits.

        Args:
            q: ``[B, H, T, D]``, the same on all ranks.
            k: This rank's keys ``[B, Hkv, S_r, D]``.
            v: This rank's values.
            plan: Who sees what; all ranks have the same queries.
            scores: What is done to scores.
            valid: Which tokens of the sequence are no padding.

        Returns:
            Output ``[B, H, T, Dv]`` and log-sum-exp ``[B, H, T]``, fp32.
        """
        own = attend_slice(q, k, v, plan.queries[0][0], plan.seen[0][self.rank], scores, valid)
        packed = torch.zeros(*q.shape[:-1], v.shape[-1] + 1, dtype=torch.float32, device=q.device)
        packed[..., -1] = -math.inf
        if own is not None:
            packed[..., :-1], packed[..., -1] = own
        parts = [(part[..., :-1], part[..., -1]) for part in self.gather(packed, "attention of a few tokens")]
        return merge(*parts[0], parts[1:], torch.float32) if len(parts) > 1 else parts[0]

    def attend_sharded(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Plan,
        scores: Scores,
        valid: Tensor | None,
        way: Way | None,
    ) -> tuple[Tensor, Tensor]:
        """Attention of this rank's queries over the keys of all ranks.

        Args:
            q: This rank's queries ``[B, H, T_r, D]``.
            k: This rank's keys ``[B, Hkv, S_r, D]``.
            v: This rank's values ``[B, Hkv, S_r, D]``.
            plan: Who sees what.
            scores: What is done to scores.
            valid: Which tokens of the sequence are no padding.
            way: Whether keys go to queries, or queries to keys; ``None`` for that of which less goes.

        Returns:
            Output ``[B, H, T_r, D]`` and log-sum-exp ``[B, H, T_r]``.
        """
        way = lighter(plan, q.shape[1], k.shape[1]) if way is None else way
        problem = Problem(
            tuple(stop - start for start, stop in plan.queries),
            plan.held,
            heads=q.shape[1],
            kv_heads=k.shape[1],
            head_dim=q.shape[3],
            batch=q.shape[0],
            element_bytes=q.element_size(),
            partial_bytes=q.element_size(),
        )
        self.group.begin()
        transport = self.group.messages
        with failing_together(self.group, "planning attention"):
            programs = proved_straight(way, plan, problem, in_order=transport.in_order)
        attention, name = PlacedAttention(plan, scores, valid), f"straight {way.value}"
        if way is Way.QUERIES:
            q = q.contiguous()  # once, for all that it is sent to

        def begin(observer: Observer | None) -> RankRun:
            return RankRun(name, programs, transport, attention, q, k, v, observer=observer)

        return run_program(begin, self.group, transport, q.device, "in attention")

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        """A call of all ranks; a failure in it reaches all of them, and names the rank at fault."""
        self.group.begin()
        with failing_together(self.group, f"in {what}"):
            try:
                yield
            except Broken as error:
                raise self.group.failure(f"waited in {what}", error) from error


class PlacedAttention:
    """Attends blocks whose places in the sequence are known.

    Args:
        plan: Who sees what.
        scores: What is done to scores.
        valid: Which tokens of the sequence are no padding.
    """

    def __init__(self, plan: Plan, scores: Scores, valid: Tensor | None) -> None:
        self._plan, self._scores, self._valid = plan, scores, valid

    def __call__(
        self, q: Tensor, items: Sequence[tuple[Tensor, ...]], step: KernelCall | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """As :class:`~tokenring_xdit.attention.local.BlockAttention`."""
        assert step is not None  # there are no joint keys
        (attend,), (k, v) = step.attends, items[0]
        seen = self._plan.seen[attend.q.owner][attend.kv.owner]
        start, _ = self._plan.queries[attend.q.owner]
        return attend_slice(q, k, v, start, seen._replace(offset=0), self._scores, self._valid)

    def keys_of_each_item(self, mask: KeyMask | None, k: Tensor, v: Tensor) -> None:
        """The same for all items: padding is known by its place."""


def attend_slice(
    q: Tensor, k: Tensor, v: Tensor, q_start: int, seen: Slice, scores: Scores, valid: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Attention over a slice of keys, past and new ones apart, so that each may go to a fused kernel."""
    if not seen.tokens or not q.shape[2]:
        return None
    before = [piece for piece in seen.pieces if piece[1] <= q_start]
    after = [piece for piece in seen.pieces if piece[1] > q_start]
    if after and after[0][0] < q_start:
        before.append((after[0][0], q_start))
        after[0] = (q_start, after[0][1])
    total = Accumulator((*q.shape[:-1], v.shape[-1]), q.device)
    offset = seen.offset
    for pieces in (before, after):
        count = sum(stop - start for start, stop in pieces)
        part = slice(offset, offset + count)
        offset += count
        if count:
            counting = None if valid is None else torch.cat([valid[:, low:high] for low, high in pieces], dim=1)
            _add(total, attend(q, k[:, :, part], v[:, :, part], q_start, pieces, scores, counting))
    return total.result(torch.float32)


def _add(total: Accumulator, found: tuple[Tensor, Tensor] | None) -> None:
    if found is not None:
        total.add(*found, owned=True)
