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
        call_overhead: Seconds of a call before anything is sent: agreement, and what Python needs.
        latency: Seconds from a wire's last byte to a receiver that goes on.
        wire_share: Share of a wire's rate that is payload: :data:`FRAME_SHARE` where rates count frames.
        all_to_all_share: Share of a wire's rate that the all-to-all of Ulysses reaches. That of gloo sends before it
            receives, and so runs a wire in one direction at a time.
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
    wire_share: float = 1.0
    all_to_all_share: float = 1.0
    in_order: bool = False
    cores: float | None = None
    transfer_work: float = 0.0
