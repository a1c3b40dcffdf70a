"""The ``tokenring-xdit`` command; one thin module for each subcommand.

Importing this package is quick, so that :func:`main` is there to hear Ctrl-C before anything else is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; :func:`tokenring_xdit.cli.commands.run_command` says with which exit codes."""
    from tokenring_xdit.cli.interrupt import interruptible
    from tokenring_xdit.workers.death import end_with_launcher

    end_with_launcher()

    def command() -> int:
        from tokenring_xdit.cli.commands import run_command

        return run_command(argv)

    return interruptible(command)
