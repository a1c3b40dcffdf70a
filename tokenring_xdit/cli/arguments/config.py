"""Arguments of ``tokenring-xdit config``."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "config",
        help="check, show or copy a YAML config, or print all its keys",
        epilog="example: tokenring-xdit config copy flux-tokenring-8gpu",
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    check = subcommands.add_parser(
        "check",
        help="find all mistakes of configs, without running them",
        description="Find all mistakes of configs. Models are looked at as well, as far as they are on this machine or "
        "the hub can be reached: degrees and sizes have to fit them.",
        epilog="example: tokenring-xdit config check configs/flux-tokenring-8gpu.yaml steps=4",
    )
    check.add_argument(
        "configs", nargs="+", metavar="config or key=value", help="YAML files, and values that replace those of each"
    )
    check.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    check.set_defaults(action="config_check:check_command")

    show = subcommands.add_parser(
        "show",
        help="print a config with all defaults and overrides filled in",
        epilog="example: tokenring-xdit config show configs/flux-tokenring-8gpu.yaml steps=4",
    )
    show.add_argument("config", type=Path, help="the YAML file")
    show.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the file")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(action="config:show_command")

    listing = subcommands.add_parser(
        "list",
        help="list the configs that ship with the package",
        epilog="example: tokenring-xdit config list, then tokenring-xdit config copy flux-tokenring-8gpu",
    )
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(action="configs:list_command")

    copy = subcommands.add_parser(
        "copy",
        help="copy a config that ships with the package, and those that it extends",
        epilog="example: tokenring-xdit config copy flux-tokenring-8gpu --to .",
    )
    copy.add_argument("name", help="of config list")
    copy.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="default: the working folder")
    copy.set_defaults(action="configs:copy_command")

    schema = subcommands.add_parser(
        "schema",
        help="print all keys of a config",
        epilog="example: tokenring-xdit config schema --json > tokenring.schema.json (for editors)",
    )
    schema.add_argument(
        "--task", choices=("picture", "text"), default="picture", help="what the config is for (default: %(default)s)"
    )
    schema.add_argument("--json", action="store_true", help="print the JSON schema")
    schema.set_defaults(action="config:schema_command")
