"""The ``tokenring-xdit`` command; one thin module for each subcommand."""

from tokenring_xdit.cli.main import main

__all__ = ["main"]
