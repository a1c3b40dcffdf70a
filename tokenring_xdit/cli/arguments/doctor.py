"""Arguments of ``tokenring-xdit doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["PARTS", "add_parser"]

PARTS = ("exactness", "links", "launches", "kernels", "strategies", "step")
"""What ``--skip`` takes, in the order in which they run."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine: exactness of every schedule, and speed",
        description="Check this machine: what is installed, whether every schedule is exact over the real transport, "
        "the links between ranks, how fast kernels, calls, messages, strategies are. Writes a report, the same in "
        "JSON, and a topology that schedule auto takes. Without a GPU it checks what it can on the processor. Takes "
        "about ten minutes at most, three with --quick. Exit code 1: something is wrong.",
        epilog="example: tokenring-xdit doctor --quick --skip step --out doctor-here",
    )
    parser.add_argument("--quick", action="store_true", help="measure less")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks to start (default: GPUs, or 4)")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=(*PARTS, "times"),
        metavar="PART",
        help=f"leave a part out: {', '.join(PARTS)}, or times for the last four; may be given several times",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="new folder for the files (default: doctor-HOST-DATE)"
    )
    parser.add_argument("--json", action="store_true", help="print what doctor.json holds")
    parser.set_defaults(action="doctor:doctor_command")
