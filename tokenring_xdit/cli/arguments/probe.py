"""Arguments of ``tokenring-xdit probe``."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "probe",
        help="measure the links between ranks, and save them as a topology",
        description="Measure the links between ranks and find the topology. Starts the ranks itself, on this "
        "machine or in an emulated network; under torchrun it is one of them.",
        epilog="example: tokenring-xdit probe --network star:4:100mbit --output topology.yaml, or "
        "torchrun --nproc-per-node=8 -m tokenring_xdit.cli probe --output topology.yaml",
    )
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks to start (default: hosts, GPUs, or 4)")
    parser.add_argument("--network", metavar="NETWORK", help="measure inside this emulated network (needs root)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the topology to this YAML file")
    parser.add_argument("--quick", action="store_true", help="measure less")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="what it may take, about (default: 60, or 15 with --quick)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; rates in bits a second")
    parser.set_defaults(action="probe:probe_command")
