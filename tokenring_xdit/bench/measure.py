"""One rank's share of a comparison of attention calls: its tensors, the strategies on them, and what is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import bytes_sent, token_ring_attention
from tokenring_xdit.attention.auto import planned_for_replays
from tokenring_xdit.attention.kernels import choose
from tokenring_xdit.attention.tracing import recorded
from tokenring_xdit.bench.commands import Checked, Prepare, Timed
from tokenring_xdit.bench.instruments import (
    barrier,
    counted_by,
    largest,
    observe,
    settle,
    synchronize,
    traced_call,
)
from tokenring_xdit.bench.plan import Strategy, StrategyKind
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.graphs import CudaRecorder, Recorder, Recording
from tokenring_xdit.hosts.xfuser import XfuserState, count_traffic
from tokenring_xdit.hosts.xfuser.rotation import all_to_all_rotation
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.schedule import Activity, Auto

__all__ = ["Bench"]

_CHECKED_SCORES = 1 << 25
"""Scores that a rank computes in fp64 for the reference: all of 4096 tokens and 8 heads on 4 ranks."""

_REHEARSALS = 2
"""Calls before one is captured."""


class Bench:
    """A problem on one rank. All ranks call its methods at the same time.

    Args:
        command: The problem.
        device: Where to compute.
    """

    _states: dict[ParallelDims, XfuserState] = {}  # noqa: RUF012  groups of xfuser outlive a problem

    def __init__(self, command: Prepare, device: torch.device) -> None:
        self._shape, self._seed, self._device = command.shape, command.seed, device
        self._rank = dist.get_rank()
        self._dtype = torch_dtype(command.shape.dtype)
        self._kernel = choose(None, device, self._dtype, command.shape.head_dim)
        self.kernel = self._kernel.name
        self.threads = torch.get_num_threads()
        self._own = self._shard(self._rank)
        self._whole: list[Tensor] | None = None
        self._recorder: Recorder | None = None
        self._recordings: dict[Strategy, Recording] = {}
        every = [self._shard(rank) for rank in range(command.shape.ranks)]
        keys, values = (torch.cat([shard[i] for shard in every], dim=2) for i in (1, 2))
        self._rows, self._expected = self._reference(self._own[0], keys, values)
        if command.whole and self._rank == 0:
            self._whole = [torch.cat([shard[0] for shard in every], dim=2), keys, values]

    def _shard(self, rank: int) -> list[Tensor]:
        """Queries, keys and values of a rank, each ``[B, H, S/N, D]``; the same wherever they are made."""
        shape = self._shape
        generator = torch.Generator().manual_seed(self._seed * 4096 + rank)
        keys = shape.lengths()[rank]
        sizes = [(shape.batch, shape.heads, n, shape.head_dim) for n in (shape.query_lengths()[rank], keys, keys)]
        return [torch.randn(size, generator=generator).to(self._dtype).to(self._device) for size in sizes]

    def _reference(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax in fp64 of some of this rank's queries, evenly spaced where all would take too long.

        Returns:
            Their positions in the shard, and the output ``[B, H, rows, D]``.
        """
        rows = min(q.shape[2], max(1, _CHECKED_SCORES // (q.shape[0] * q.shape[1] * k.shape[2])))
        at = torch.linspace(0, max(0, q.shape[2] - 1), rows).round().long().to(q.device)
        out = torch.empty((*q.shape[:2], rows, q.shape[3]), dtype=torch.float64, device=q.device)
        for item in range(q.shape[0]):
            for head in range(q.shape[1]):
                scores = q[item, head, at].double() @ k[item, head].double().T / math.sqrt(q.shape[3])
                out[item, head] = torch.softmax(scores, dim=-1) @ v[item, head].double()
        return at, out

    # -- strategies --------------------------------------------------------------------------------

    def _call(self, strategy: Strategy) -> Callable[[], Tensor | None]:
        """The call to measure; what it returns is this rank's output, or on one rank the whole or nothing."""
        if strategy.captured:
            return self._captured(strategy)
        kind = strategy.kind
        if not strategy.through_usp and kind is StrategyKind.SCHEDULE:
            name, key = str(strategy.schedule), self._shape  # a key as pipelines pass one: ranks agree once a shape
            return lambda: token_ring_attention(*self._own, schedule=name, cache_key=key)[0]
        if kind is StrategyKind.SINGLE:
            return self._single
        degrees = strategy.dims(self._shape.ranks)
        if degrees not in self._states:
            self._states[degrees] = XfuserState(degrees, one_of_several=True)
        state = self._states[degrees]
        state.activate(None)

        def call() -> Tensor:
            with all_to_all_rotation() if kind is StrategyKind.XFUSER_RING_ALLTOALL else nullcontext():
                return state.attention(*self._own)

        return call

    def _launched(self, strategy: Strategy) -> Callable[[], Tensor | None]:
        """The call as it is, with what ``auto`` chooses for how it is measured."""
        launched = self._call(strategy.launched)

        def call() -> Tensor | None:
            with planned_for_replays() if strategy.captured else nullcontext():
                return launched()

        return call

    def _captured(self, strategy: Strategy) -> Callable[[], Tensor | None]:
        """The call as a CUDA graph, which is captured once it has been rehearsed."""
        if strategy not in self._recordings:
            launched = self._launched(strategy)
            if self._recorder is None:
                self._recorder = CudaRecorder(self._device)
            for _ in range(_REHEARSALS):
                self._recorder.rehearse(launched)
            self._recordings[strategy] = self._recorder.record(launched)
        recording = self._recordings[strategy]

        def call() -> Tensor | None:
            recording.replay()
            output: Tensor | None = recording.output
            return output

        return call

    def _single(self) -> Tensor | None:
        if self._whole is None:
            return None
        with recorded(Activity.ATTEND, "Q to KV"):
            return self._kernel.run(*self._whole, scale=None, causal=False)[0]

    def _compute(self) -> None:
        """What every rank computes, whoever sends: its queries over as many keys as there are, a shard at a time."""
        for _ in range(self._shape.ranks):
            self._kernel.run(*self._own, scale=None, causal=False)

    # -- measurements ------------------------------------------------------------------------------

    @torch.inference_mode()
    def time(self, strategy: Strategy | None) -> Timed:
        """One call on this rank, from a barrier on."""
        call = self._compute if strategy is None else self._call(strategy)
        barrier(self._device)
        start = time.perf_counter()
        call()
        synchronize(self._device)
        return Timed(time.perf_counter() - start)

    @torch.inference_mode()
    def trace(self, strategy: Strategy) -> Traced | None:
        """Record one call, from a barrier on; rank 0 returns what all ranks did."""
        return traced_call(self._launched(strategy), str(strategy), self._device, through_usp=strategy.through_usp)

    @torch.inference_mode()
    def check(self, strategy: Strategy) -> Checked:
        """Call it until it has chosen what it does, then twice: with empty buffers, for the memory, and to look at it.

        So everything that follows, the timed calls too, is of what was chosen. Memory and traffic of a captured call
        are those of the call as it is.
        """
        call = self._launched(strategy)
        if isinstance(strategy.schedule, Auto):
            settle(call, self._device)
        counting = count_traffic if strategy.through_usp else partial(counted_by, bytes_sent)
        out, figures = observe(call, self._device, counting)
        if strategy.captured:
            out = self._call(strategy)()
            synchronize(self._device)
        if strategy.kind is StrategyKind.SINGLE:
            out = self._scattered(out)
        assert out is not None
        difference = (out[:, :, self._rows].double() - self._expected).abs()
        return Checked(
            difference=largest(difference),
            scale=largest(self._expected.abs()),
            rows=self._rows.numel(),
            **figures,
        )

    def _scattered(self, whole: Tensor | None) -> Tensor:
        """Every rank's part of what one rank computed."""
        lengths = list(self._shape.query_lengths())
        if self._rank:
            part = torch.empty_like(self._own[0])
            dist.recv(part, 0)
            return part
        assert whole is not None
        parts = [part.contiguous() for part in torch.split(whole, lengths, dim=2)]
        for rank, part in enumerate(parts[1:], 1):
            dist.send(part, rank)
        own: Tensor = parts[0]
        return own
