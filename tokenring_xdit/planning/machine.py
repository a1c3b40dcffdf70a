"""What a machine takes for kernels, messages and copies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Attention", "Launches", "Machine"]

_TILE = 128
"""Queries of a head that a multiprocessor of a GPU attends with at once, as cuDNN's kernel for the H100 does."""

_H100_MULTIPROCESSORS = 132


@dataclass(frozen=True)
class Attention:
    """What a call of the attention kernel computes.

    Attributes:
        flops: Floating point operations: a multiplication and an addition for each of two products, half if causal.
        heads: Query heads of all items.
        queries: Tokens of each.
    """

    flops: float
    heads: int
    queries: int


@dataclass(frozen=True)
class Launches:
    """Seconds that a host takes to launch what its device does later; it does not wait for it, and goes on.

    Attributes:
        attend: A call of the attention kernel.
        fold: Packing or merging a partial output, or joining keys.
        message: Posting a message.
        collective: Posting an all-gather or all-to-all.
        call: A call of a schedule, before anything else.
    """

    attend: float = 0.0
    fold: float = 0.0
    message: float = 0.0
    collective: float = 0.0
    call: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Speeds of ranks, beside those of links; :func:`tokenring_xdit.attention.calibrate` measures them.

    Attributes:
        attend_rate: Floating point operations a second of the attention kernel, where it leaves no multiprocessor idle.
        attend_overhead: Seconds that a kernel call takes however short.
        multiprocessors: Of a GPU: each takes a tile of queries of one head through all keys, so that calls take whole
            waves of them; ``None`` where short calls are as fast as long ones.
        wave_overhead: Seconds of each wave beside its keys.
        fold_rate: Bytes a second at which partial outputs are packed and merged, and keys joined.
        fold_overhead: Seconds that each of that takes however short.
        message_overhead: Seconds that a rank spends on posting one message.
        call_overhead: Seconds of a call of a schedule before anything is sent: agreement, and what Python needs.
        latency: Seconds from a link's last byte to a receiver that goes on.
        in_order: Whether a rank works off the exchanges of each channel one after the other, as NCCL does, while it
            computes; else connections are independent.
        launches: What a host takes beside all that, where it does not compute itself.
        cores: Processor cores that all ranks share, where that is so; ``None`` where each has a device of its own.
    """

    attend_rate: float
    attend_overhead: float = 0.0
    multiprocessors: int | None = None
    wave_overhead: float = 0.0
    fold_rate: float = float("inf")
    fold_overhead: float = 0.0
    message_overhead: float = 0.0
    call_overhead: float = 0.0
    latency: float = 0.0
    in_order: bool = False
    launches: Launches = Launches()
    cores: float | None = None

    def attend(self, work: Attention) -> float:
        """Seconds of a kernel call."""
        fixed, flops = self._attend_parts(work)
        return fixed + flops / self.attend_rate

    def attend_rate_of(self, work: Attention, seconds: float) -> float:
        """The rate of a kernel of which a call took so long."""
        fixed, flops = self._attend_parts(work)
        return flops / max(seconds - fixed, 1e-9)

    def _attend_parts(self, work: Attention) -> tuple[float, float]:
        """Seconds whatever the rate, and operations with those that idle multiprocessors could have done."""
        if self.multiprocessors is None or not work.flops:
            return self.attend_overhead, work.flops
        waves = math.ceil(work.heads * math.ceil(work.queries / _TILE) / self.multiprocessors)
        rows = waves * self.multiprocessors * _TILE
        return self.attend_overhead + waves * self.wave_overhead, work.flops * rows / (work.heads * work.queries)

    def fold(self, size: float) -> float:
        """Seconds in which a partial output of this many bytes is packed or merged, or keys are joined."""
        return self.fold_overhead + size / self.fold_rate

    def captured(self) -> Machine:
        """The same machine where calls are captured as CUDA graphs, whose replay launches nothing."""
        return replace(self, launches=Launches())

    @classmethod
    def of_gpus(
        cls, attend_rate: float, fold_rate: float = 8e11, multiprocessors: int = _H100_MULTIPROCESSORS
    ) -> Machine:
        """A GPU for each rank, over NCCL.

        All of it was measured on one H100 (docs/gpu.md), except for the latency, which was not.

        Args:
            attend_rate: Floating point operations a second that the attention kernel reaches in long calls.
            fold_rate: Bytes a second at which partial outputs are packed and merged; left out, that of an H100.
            multiprocessors: Multiprocessors of each GPU; left out, those of an H100.
        """
        return cls(
            attend_rate,
            attend_overhead=4e-6,
            multiprocessors=multiprocessors,
            wave_overhead=3.4e-6,
            fold_rate=fold_rate,
            fold_overhead=2e-6,
            latency=1e-5,
            in_order=True,
            launches=Launches(attend=6e-5, fold=3.5e-5, message=3e-5, collective=3e-5, call=1e-4),
        )

    @classmethod
    def of_processors(
        cls, attend_rate: float, fold_rate: float, *, cores: float, attend_overhead: float = 0.0, threads: int = 1
    ) -> Machine:
        """Ranks that share processor cores, over gloo.

        The constants were found on two cores by fitting simulations to measurements (docs/planner.md).

        Args:
            attend_rate: Floating point operations a second of the attention kernel of one rank.
            fold_rate: Bytes a second at which it merges partial outputs.
            cores: Cores of all ranks together.
            attend_overhead: Seconds of a kernel call however short, besides what Python needs for it.
            threads: That a rank computes with.
        """
        return cls(
            attend_rate,
            attend_overhead=1.9e-4 + attend_overhead,
            fold_rate=fold_rate,
            message_overhead=3e-5,
            call_overhead=7e-4,
            latency=2.5e-3,
            cores=cores / threads,
        )
