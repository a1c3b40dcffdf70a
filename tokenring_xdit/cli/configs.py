"""``tokenring-xdit config list`` and ``copy``: the configs that ship with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenring_xdit import shipped

__all__ = ["copy_command", "list_command"]


def list_command(args: argparse.Namespace) -> None:
    """List the configs that ship with the package."""
    found = {name: _purpose(path) for name, path in shipped.configs().items()}
    if args.json:
        print(json.dumps([{"name": name, "purpose": purpose} for name, purpose in found.items()], indent=2))
        return
    for name, purpose in found.items():
        print(f"{name:<32} {purpose}")


def _purpose(path: Path) -> str:
    """The first line of the comment that a config begins with."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip().rstrip(":.")


def copy_command(args: argparse.Namespace) -> None:
    """Copy a config that ships with the package."""
    for path in shipped.copy_config(args.name, args.to):
        print(path)
