"""What a probe found, for people and for the file that it writes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from tokenring_xdit.probe.driver import Probed
from tokenring_xdit.probe.figures import Figures

__all__ = ["matrix", "remarks"]


def matrix(figures: Figures) -> str:
    """Gbit/s from each rank (a line) to each other (a column), measured alone."""
    lines = ["Gbit/s, payload, one pair at a time; from rank (line) to rank (column)"]
    lines.append(" " * 5 + "".join(f"{rank:>9}" for rank in range(figures.ranks)))
    for source in range(figures.ranks):
        cells = (figures.alone.get((source, destination)) for destination in range(figures.ranks))
        lines.append(f"{source:>5}" + "".join(f"{'-' if rate is None else f'{rate / 1e9:.3g}':>9}" for rate in cells))
    return "\n".join(lines)


def remarks(probed: Probed, network: str | None) -> dict[str, Any]:
    """What is written beside the network.

    Args:
        probed: What was found.
        network: The emulated network that was measured, if one was.
    """
    first = probed.descriptions[0]
    inference = probed.inference
    return {
        "notes": [inference.words, *inference.notes, *_limits(network)],
        "measured": {
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(probed.seconds, 1),
            "where": [found.place for found in probed.descriptions],
            "devices": [found.device for found in probed.descriptions],
            "network": network,
            "backend": first.backend,
            "torch": first.torch,
            "error": float(f"{inference.error:.3g}") if inference.network is not None else None,
            **probed.figures.to_dict(),
        },
    }


def _limits(network: str | None) -> list[str]:
    shared = "delays are those of small messages, software included, shared out among the links of their way"
    return [shared] if network is None else [f"measured in the emulated network {network}", shared]
