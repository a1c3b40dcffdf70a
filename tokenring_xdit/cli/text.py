"""What the commands about language models share."""

from __future__ import annotations

import argparse

from tokenring_xdit.errors import ConfigurationError

__all__ = ["refuse_below_one"]


def refuse_below_one(args: argparse.Namespace, *names: str) -> None:
    """Refuse arguments that were given and are less than 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} {value}: it has to be at least 1")
