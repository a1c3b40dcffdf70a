"""``tokenring-xdit network``: emulated networks, checked and cleaned up."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenring_xdit.network import NetworkReport

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("network", help="check an emulated network, or remove what was left of one")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    check = subcommands.add_parser(
        "check",
        help="build a network, measure each wire of it, remove it (needs root)",
        epilog="example: tokenring-xdit network check mesh:4:100mbit",
    )
    check.add_argument(
        "network",
        help="mesh:N:RATE, star:N:RATE, ring:N:RATE, two-level:GxN:INNER:OUTER, or a YAML file; rates as in 100mbit",
    )
    check.add_argument("--json", action="store_true", help="print JSON; rates in bits a second")
    check.set_defaults(run=_check)

    clean = subcommands.add_parser(
        "clean",
        help="remove networks whose processes were killed (needs root)",
        epilog="example: tokenring-xdit network clean",
    )
    clean.add_argument("--json", action="store_true", help="print JSON")
    clean.set_defaults(run=_clean)


def _check(args: argparse.Namespace) -> None:
    from tokenring_xdit.network import emulate, load_network, refuse_slow, self_test

    network = load_network(args.network)
    with emulate(network) as emulated:
        print(f"measuring {len(network.wires)} wires, about a second each", file=sys.stderr)
        report = self_test(emulated)
    print(json.dumps(report.to_dict()) if args.json else _table(report))
    refuse_slow(report)


def _clean(args: argparse.Namespace) -> None:
    from tokenring_xdit.network import remove_stale

    removed = remove_stale()
    if args.json:
        print(json.dumps(list(removed)))
    else:
        print("\n".join(f"removed {name}" for name in removed) or "nothing to remove")


def _table(report: NetworkReport) -> str:
    """Payload rates in Mbit/s, and as shares of the stated ones."""

    def cell(reached: float, share: float) -> str:
        return f"{reached / 1e6:10.2f} {share:4.0%}"

    width = max(len(str(entry.wire)) for entry in report.wires)
    lines = [
        f"network {report.network.name}: payload in Mbit/s, and as a share of the stated rate",
        f"{'wire':<{width}} {'stated':>10}  {'one way':>15}  {'both: there':>15}  {'both: back':>15}",
    ]
    for entry in report.wires:
        figures = (entry.one_way, entry.there, entry.back)
        cells = "  ".join(cell(figure.reached, figure.share) for figure in figures)
        lines.append(f"{entry.wire!s:<{width}} {entry.wire.rate!s:>10}  {cells}")
    slowest = min(report.together, key=lambda figure: figure.share)
    lines.append(
        f"all hosts at once ({len(report.together)} transfers), the slowest: {slowest.source} to "
        f"{slowest.destination} {slowest}"
    )
    return "\n".join(lines)
