"""Attention calls of all ranks in this process, in any order of events, against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.attention.local import LocalAttention
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.transport import MemoryNetwork, MemoryTransport
from tokenring_xdit.schedule import Mask
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem

Choose = Callable[[int, int], int]

SHARPNESS = 3.0
"""Factor on queries and keys: attention that is nearly uniform hides keys that are missing or counted twice."""


def ranks_first(ranks: int, transfers: int) -> int:
    """Messages are carried out as late as can be."""
    return 0


def transfers_first(ranks: int, transfers: int) -> int:
    """Messages are carried out as soon as can be, those of high ranks first."""
    return ranks + transfers - 1


def at_random(seed: int) -> Choose:
    """Anything that is possible, each as likely as any other."""
    generator = torch.Generator().manual_seed(seed)
    return lambda ranks, transfers: int(torch.randint(ranks + transfers, (), generator=generator))


@dataclass(frozen=True)
class Shards:
    """Queries, keys and values of all ranks, whole.

    Attributes:
        q: ``[B, H, S, D]``.
        k: ``[B, Hkv, S, D]``.
        v: ``[B, Hkv, S, D]``.
    """

    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def of(cls, problem: Problem, seed: int = 0) -> Shards:
        """Random ones, for which attention is peaky."""
        generator = torch.Generator().manual_seed(seed)

        def make(heads: int, length: int) -> Tensor:
            return torch.randn(problem.batch, heads, length, problem.head_dim, generator=generator)

        queries, keys = sum(problem.q_lengths), sum(problem.kv_lengths)
        q, k = make(problem.heads, queries) * SHARPNESS, make(problem.kv_heads, keys) * SHARPNESS
        return cls(q, k, make(problem.kv_heads, keys))


def run(
    programs: Sequence[RankProgram],
    problem: Problem,
    shards: Shards,
    choose: Choose,
    *,
    in_order: bool = False,
    key_masks: Sequence[KeyMask] | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of all ranks, one behind the other.

    Args:
        programs: What the ranks do.
        problem: The shapes.
        shards: The tensors.
        choose: What happens next.
        in_order: How the transport works.
        key_masks: Of each rank, where items of the batch differ in what they hide.
    """
    q, k, v = (
        shards.q.split(problem.q_lengths, 2),
        shards.k.split(problem.kv_lengths, 2),
        shards.v.split(problem.kv_lengths, 2),
    )

    def call(transport: MemoryTransport) -> tuple[Tensor, Tensor]:
        rank = transport.rank
        mask = None if key_masks is None else key_masks[rank]
        attention = LocalAttention(KERNELS["math"].run, None)
        own = RankRun("", programs, transport, attention, q[rank], k[rank], v[rank], key_mask=mask)
        return own.run()

    found = MemoryNetwork(problem.ranks, choose, in_order=in_order).run(call)
    outs, lses = zip(*found, strict=True)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def error(
    programs: Sequence[RankProgram],
    problem: Problem,
    choose: Choose,
    *,
    mask: Mask = Mask.FULL,
    in_order: bool = False,
    seed: int = 0,
) -> float:
    """How far output and log-sum-exp are from softmax in fp64, of their scale."""
    shards = Shards.of(problem, seed)
    queries, keys = shards.q.shape[2], shards.k.shape[2]
    if not queries:
        return 0.0
    visible = None
    if mask is Mask.CAUSAL:
        visible = torch.arange(keys) <= torch.arange(queries)[:, None]
    if not keys:
        out, lse = run(programs, problem, shards, choose, in_order=in_order)
        return float(out.abs().max()) + float((lse != -torch.inf).any())
    expected = softmax_attention(shards.q, shards.k, shards.v, visible=visible)
    found = run(programs, problem, shards, choose, in_order=in_order)
    return max(relative_error(one, other) for one, other in zip(found, expected, strict=True))
