"""Where the command begins: quick to import, so that Ctrl-C is heard before anything else is imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; :func:`tokenring_xdit.cli.commands.run_command` says with which exit codes."""
    try:
        from tokenring_xdit.workers.interrupt import interruptible
    except KeyboardInterrupt:
        print("tokenring-xdit: interrupted", file=sys.stderr)
        return 130

    def command() -> int:
        from tokenring_xdit.workers.lifetime import end_with_launcher

        end_with_launcher()
        from tokenring_xdit.cli.commands import run_command

        return run_command(argv)

    return interruptible(command)
