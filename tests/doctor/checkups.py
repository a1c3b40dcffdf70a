"""Checkups as they might come from machines that are not at hand."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from tokenring_xdit.doctor.machines import GpuFacts, MachineFacts
from tokenring_xdit.doctor.record import Checkup, ExactnessResult

H100 = GpuFacts(name="NVIDIA H100 80GB HBM3", memory_bytes=80 << 30, capability=(9, 0))


def machine(
    gpus: int = 0, *, peers: bool = True, torch: str = "2.13.0", gpu: GpuFacts = H100, **facts: Any
) -> MachineFacts:
    """A machine with some GPUs of one kind."""
    return MachineFacts(
        host="node<1>",
        platform="Linux",
        python="3.11.7",
        cpu="a processor",
        cores=64,
        memory_bytes=512 << 30,
        versions={"torch": torch, "xfuser": "0.7.0", "flash-attn": None},
        cuda="13.0" if gpus else None,
        nccl="2.28.9" if gpus else None,
        driver="580.1" if gpus else None,
        gpus=(gpu,) * gpus,
        peers=tuple(permutations(range(gpus), 2)) if peers else (),
    ).model_copy(update=facts)


def result(schedule: str, error: float | None, said: str = "") -> ExactnessResult:
    """What was found of a schedule."""
    exact = error is not None and error <= 1e-5
    return ExactnessResult(
        schedule=schedule,
        mask="causal",
        problem="uneven shards, 8 heads",
        dtype="float32",
        error=error,
        limit=1e-5,
        exact=exact,
        said=said,
    )


def checkup(**found: Any) -> Checkup:
    """A checkup that found this, and nothing else."""
    return Checkup.model_validate(
        {
            "package": "0",
            "command": "tokenring-xdit doctor",
            "started": "2026-11-30T08:00:00+00:00",
            "seconds": 1.0,
            "quick": True,
            "ranks": 4,
            "backend": "gloo",
            "machine": None,
            "parts": (),
            "topology_said": "measured: a ring",
            "topology": {"hosts": 2},
            **found,
        }
    )
