"""``tokenring-xdit bench compare-runs``: two checkups side by side."""

from __future__ import annotations

import argparse
import json

from tokenring_xdit.doctor.compare import in_words, read_checkup, to_plain
from tokenring_xdit.messages import escaped

__all__ = ["compare_runs_command"]


def compare_runs_command(args: argparse.Namespace) -> None:
    """Print what two machines were found to do."""
    first, second = read_checkup(args.first), read_checkup(args.second)
    if args.json:
        print(json.dumps(to_plain(first, second)))
    else:
        print(escaped(in_words(first, second), keep="\n"))
