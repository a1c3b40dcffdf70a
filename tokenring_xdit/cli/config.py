"""``tokenring-xdit config show`` and ``schema``: configs and their keys, read without their models, or torch."""

from __future__ import annotations

import argparse
import json

import yaml

from tokenring_xdit.pipelines.tasks import TASKS, read_run

__all__ = ["schema_command", "show_command"]


def show_command(args: argparse.Namespace) -> None:
    """Print a config with everything filled in."""
    values = read_run(args.config, args.overrides).model_dump(mode="json")
    print(json.dumps(values, indent=2) if args.json else yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def schema_command(args: argparse.Namespace) -> None:
    """Print all keys of a config."""
    schema = TASKS[args.task].file_schema()
    if args.json:
        print(json.dumps(schema, indent=2))
        return
    for key, field in schema["properties"].items():
        default = f"default: {json.dumps(field['default'])}" if "default" in field else "required"
        print(f"{key:<18} {field['description']} ({default})")
