"""Where the figures come from that a prediction stands on: published, measured, given, or assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.amounts import bytes_in_words
from tokenring_xdit.planning.machine import Launches, Machine
from tokenring_xdit.topology import Counts, Network, Rate, find_preset
from tokenring_xdit.topology.alone import NVLINK_4, NVLINK_4_SOURCE

__all__ = ["PlanFigure", "Standing", "figures"]

_H100 = "on one H100 and its host (docs/gpu.md)"
_MAKERS = "nvidia-smi topo -m says what joins GPUs, not how fast: makers' rates of most machines"


class Standing(Enum):
    """What a figure is worth. The values are what users read."""

    PUBLISHED = "published"
    """By makers, or by others who measured."""
    MEASURED_HERE = "measured here"
    """On this machine, in this run."""
    MEASURED = "measured"
    """By this package, on another machine or earlier."""
    GIVEN = "given"
    """By the user."""
    ASSUMED = "assumed"
    """By nobody but us."""


@dataclass(frozen=True)
class PlanFigure:
    """Something that a prediction stands on.

    Attributes:
        what: What it is, with its value.
        standing: What it is worth.
        source: Where it comes from.
    """

    what: str
    standing: Standing
    source: str

    def to_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return {"what": self.what, "standing": self.standing.value, "source": self.source}


def figures(network: Network, machine: Machine, kernel: Standing) -> tuple[PlanFigure, ...]:
    """What a prediction for a machine on a network stands on, the most important first.

    Args:
        network: What joins the ranks.
        machine: Speeds of the ranks.
        kernel: What the speed of the attention kernel is worth.
    """
    return (*_of_links(network), *_of_ranks(machine, kernel))


def _of_links(network: Network) -> Sequence[PlanFigure]:
    preset = find_preset(network.name)
    rates = sorted({rate.bits_per_second / 8e9 for link in network.links for rate in (link.rate, link.back)})
    some = f"{rates[0]:.3g} GB/s" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g} GB/s"
    links = f"links, {some} in each direction"
    if network.devices:
        worth, source = Standing.MEASURED, f"by the probe, between {', '.join(dict.fromkeys(network.devices))}"
    elif preset is not None:
        worth, source = Standing.PUBLISHED, "; ".join(each for each in preset.sources if each != NVLINK_4_SOURCE)
    elif network.counts is Counts.LINK and network.name.startswith("nvidia-smi"):
        worth, source = Standing.ASSUMED, _MAKERS
    else:
        worth, source = Standing.GIVEN, "as the topology says"
    found = [PlanFigure(links, worth, source)]
    curves = {link.messages for link in network.links}
    known = curves - {()}
    if not known:
        what = "messages alone, as fast as many together"
        return [*found, PlanFigure(what, Standing.ASSUMED, "nothing is known of what one reaches by its size")]
    ends = dict.fromkeys(next(iter(known))[at] for at in (0, -1))
    what = f"messages alone, {' to '.join(map(_point, ends))}" + (", on some links" if () in curves else "")
    if NVLINK_4 in known:
        return [*found, PlanFigure(what, Standing.PUBLISHED, NVLINK_4_SOURCE)]
    measured = bool(network.devices)
    return [
        *found,
        PlanFigure(
            what, Standing.MEASURED if measured else Standing.GIVEN, "by doctor" if measured else "by the topology"
        ),
    ]


def _point(point: tuple[int, Rate]) -> str:
    size, rate = point
    return f"{bytes_in_words(size)} at {rate.bits_per_second / 8e9:.3g} GB/s"


def _of_ranks(machine: Machine, kernel: Standing) -> Sequence[PlanFigure]:
    speed = f"attention kernel, {machine.attend_rate / 1e12:.3g} TFLOP/s in long calls"
    found = [
        PlanFigure(
            speed, kernel, {Standing.GIVEN: "--tflops"}.get(kernel, _H100 if kernel is Standing.MEASURED else "")
        )
    ]
    if machine.cores is not None:
        fitted = "fitted to runs over gloo on two cores (docs/planner.md)"
        return [*found, PlanFigure("calls, messages and latency", Standing.MEASURED, fitted)]
    waves = f"waves of {machine.multiprocessors} multiprocessors, packing and merging"
    found.append(PlanFigure(waves, Standing.MEASURED, f"{_H100}; other kernels and GPUs are taken to be like it"))
    if machine.launches == Launches():
        found.append(PlanFigure("launching, nothing", Standing.ASSUMED, "calls are captured as CUDA graphs"))
    else:
        found.append(PlanFigure("launching", Standing.MEASURED, _H100))
    latency = f"latency, {machine.latency * 1e6:.3g} us"
    found.append(
        PlanFigure(latency, Standing.ASSUMED, "what few bytes took in the same runs as messages alone on NVLink")
    )
    taken = "multiprocessors that NCCL takes from attention, none"
    return [*found, PlanFigure(taken, Standing.ASSUMED, "NCCL's kernels beside attention have not been measured")]
