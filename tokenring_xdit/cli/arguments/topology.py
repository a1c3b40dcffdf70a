"""Arguments of ``tokenring-xdit topology``."""

from __future__ import annotations

import argparse

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "topology",
        help="list and show machines and networks to plan for",
        epilog="example: tokenring-xdit topology show hgx-h100",
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    listing = subcommands.add_parser(
        "list", help="print the names of all machines and fabrics", epilog="example: tokenring-xdit topology list"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(action="topology:list_command")

    show = subcommands.add_parser(
        "show",
        help="print links, rates and their sources",
        epilog="example: tokenring-xdit topology show dgx-1, or "
        "tokenring-xdit topology show 'hgx-h100*4@ib-ndr' --yaml > topology.yaml",
    )
    show.add_argument("name", help="NODE, NODE*COUNT@FABRIC, nvidia-smi, a short form, or a YAML file")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--yaml", action="store_true", help="print the YAML file that describes it")
    show.set_defaults(action="topology:show_command")
