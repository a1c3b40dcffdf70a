"""``tokenring-xdit network``: emulated networks, checked and cleaned up."""

from __future__ import annotations

import argparse
import json
import sys

from tokenring_xdit.lab.network import NetworkReport, emulate, load_network, refuse_slow, remove_stale, self_test

__all__ = ["check_command", "clean_command"]


def check_command(args: argparse.Namespace) -> None:
    """Build a network, measure it and remove it."""
    network = load_network(args.network)
    with emulate(network) as emulated:
        print(f"measuring {len(network.links)} links, about a second each", file=sys.stderr)
        report = self_test(emulated)
    print(json.dumps(report.to_dict()) if args.json else _table(report))
    refuse_slow(report)


def clean_command(args: argparse.Namespace) -> None:
    """Remove networks whose processes are gone."""
    removed = remove_stale()
    if args.json:
        print(json.dumps(list(removed)))
    else:
        print("\n".join(f"removed {name}" for name in removed) or "nothing to remove")


def _table(report: NetworkReport) -> str:
    """Payload rates in Mbit/s, and as shares of the stated ones."""

    def cell(reached: float, share: float) -> str:
        return f"{reached / 1e6:10.2f} {share:4.0%}"

    width = max(len(str(entry.link)) for entry in report.links)
    lines = [
        f"network {report.network.name}: payload in Mbit/s, and as a share of the stated rate",
        f"{'link':<{width}} {'stated':>10}  {'one way':>15}  {'both: there':>15}  {'both: back':>15}",
    ]
    for entry in report.links:
        figures = (entry.one_way, entry.there, entry.back)
        cells = "  ".join(cell(figure.reached, figure.share) for figure in figures)
        lines.append(f"{entry.link!s:<{width}} {entry.link.rate!s:>10}  {cells}")
    slowest = min(report.together, key=lambda figure: figure.share)
    lines.append(
        f"all hosts at once ({len(report.together)} transfers), the slowest: {slowest.source} to "
        f"{slowest.destination} {slowest}"
    )
    return "\n".join(lines)
