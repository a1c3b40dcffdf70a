"""What things cost on a machine: kernels, messages, copies."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cost"]


@dataclass(frozen=True)
class Cost:
    """Speeds of a machine, beside those of its wires. :func:`tokenring_xdit.attention.calibrate` measures them.

    Attributes:
        attend_rate: Floating point operations a second of the attention kernel.
        attend_overhead: Seconds that a kernel call takes however short.
        fold_rate: Bytes a second at which partial outputs are packed and merged.
        message_overhead: Seconds that a rank spends on posting one message.
        call_overhead: Seconds of a call of a schedule before anything is sent: agreement, and what Python needs.
        latency: Seconds from a wire's last byte to a receiver that goes on.
        turns_in_all_to_all: Whether two ranks take turns in the all-to-all of Ulysses. Those of gloo do: alone on a
            wire they reach little more than half of full duplex (measured), as if one sent before the other.
        in_order: Whether a rank works off each channel in order, as NCCL does; else connections are independent.
        cores: Processor cores that all ranks share, where that is so; ``None`` where each has a device of its own.
        transfer_work: Seconds of processor time that each byte on the wires costs, where cores are shared.
    """

    attend_rate: float
    attend_overhead: float = 0.0
    fold_rate: float = float("inf")
    message_overhead: float = 0.0
    call_overhead: float = 0.0
    latency: float = 0.0
    turns_in_all_to_all: bool = False
    in_order: bool = False
    cores: float | None = None
    transfer_work: float = 0.0

    @classmethod
    def of_gpus(cls, attend_rate: float, fold_rate: float = float("inf")) -> Cost:
        """A GPU for each rank, over NCCL.

        Launching a kernel or a transfer takes microseconds by the documentation of CUDA and NCCL; these were not
        measured, as no GPU was at hand.

        Args:
            attend_rate: Floating point operations a second that the attention kernel reaches.
            fold_rate: Bytes a second at which partial outputs are merged; left out, merging is free.
        """
        return cls(
            attend_rate,
            attend_overhead=1e-5,
            fold_rate=fold_rate,
            message_overhead=5e-6,
            call_overhead=5e-5,
            latency=1e-5,
            in_order=True,
        )

    @classmethod
    def of_processors(
        cls, attend_rate: float, fold_rate: float, *, cores: float, attend_overhead: float = 0.0, threads: int = 1
    ) -> Cost:
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
            attend_overhead=2e-4 + attend_overhead,
            fold_rate=fold_rate,
            message_overhead=6e-5,
            call_overhead=6e-3,
            latency=3e-4,
            turns_in_all_to_all=True,
            cores=cores / threads,
            transfer_work=3.5e-9 / threads,
        )
