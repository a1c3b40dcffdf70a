"""What is recorded of a case, worked out of what its ranks measured; and of the machine that they ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from tokenring_xdit import __version__
from tokenring_xdit.bench.commands import Checked, Prepared, Timed
from tokenring_xdit.bench.plan import Case, Level, Strategy, StrategyKind
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.devices import processor_name

__all__ = ["figures_of", "machine_facts"]


def figures_of(case: Case, checked: list[Checked], times: dict[Strategy | None, list[list[Timed]]]) -> dict[str, Any]:
    """What is recorded of a case.

    Args:
        case: The case.
        checked: What each rank found when its results were compared.
        times: Of each strategy, and of computation alone: calls, each with its time on every rank.
    """
    scale = max(found.scale for found in checked)
    calls = [max(one.seconds for one in timed) for timed in times[case.strategy]]
    return {
        "seconds": Spread.of(calls),
        **_SHARES[case.shape.level](case.strategy, calls, times),
        "max_error": max(found.difference for found in checked) / scale,
        "checked_rows": sum(found.rows for found in checked),
        "bytes_sent": tuple(found.bytes_sent for found in checked),
        "link_bytes": None if checked[0].links is None else tuple(found.links or {} for found in checked),
        "peak_bytes": tuple(found.peak for found in checked),
        "peak_measure": checked[0].peak_measure,
        "keys_held": None if checked[0].keys is None else tuple(found.keys or 0 for found in checked),
        "same_answer": checked[0].same_answer,
    }


def _shares(
    strategy: Strategy, calls: list[float], times: dict[Strategy | None, list[list[Timed]]]
) -> dict[str, Spread]:
    """Of a call of attention: computation, and what is left of the call."""
    if strategy.kind is StrategyKind.SINGLE:  # which has nothing to communicate, and another amount to compute
        return {}
    compute = [max(one.seconds for one in timed) for timed in times[None]]
    exposed = [call - alone for call, alone in zip(calls, compute, strict=True)]
    return {"compute_seconds": Spread.of(compute), "exposed_seconds": Spread.of(exposed)}


def _shares_of_step(
    strategy: Strategy, calls: list[float], times: dict[Strategy | None, list[list[Timed]]]
) -> dict[str, Spread]:
    """Of a denoising step that is no replay: attention, the mean of the ranks that take part."""
    if strategy.captured:
        return {}
    inside = [[one.attention for one in timed if one.attention] for timed in times[strategy]]
    return {"attention_seconds": Spread.of([sum(ranks) / len(ranks) for ranks in inside])}


_SHARES: dict[Level, Callable[..., dict[str, Spread]]] = {
    Level.ATTENTION: _shares,
    Level.PIPELINE: _shares_of_step,
    Level.TEXT: lambda strategy, calls, times: _shares(strategy, calls, times) if None in times else {},
}


def machine_facts(prepared: Prepared) -> dict[str, Any]:
    """What is recorded of the machine, and of the device and kernel that ranks computed with."""
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "xfuser", "diffusers")},
        "tokenring-xdit": __version__,  # also of a checkout that is not installed
        "device": prepared.device,
        "kernel": prepared.kernel,
        "threads_per_rank": prepared.threads,
    }
