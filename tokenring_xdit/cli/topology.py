"""``tokenring-xdit topology``: machines and networks to plan for."""

from __future__ import annotations

import argparse
import json

from tokenring_xdit.topology import (
    FABRICS,
    PRESETS,
    Counts,
    Network,
    find_preset,
    load_topology,
    network_to_mapping,
    network_to_yaml,
)

__all__ = ["add_parser"]

_COUNTED = {
    Counts.FRAMES: "rates of one direction, in Ethernet frames",
    Counts.PAYLOAD: "rates of one direction, in payload",
    Counts.LINK: "rates of one direction as makers publish them, protocol included",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("topology", help="machines and networks to plan for: presets, short forms and files")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    listing = subcommands.add_parser(
        "list", help="names of all presets and fabrics", epilog="example: tokenring-xdit topology list"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)

    show = subcommands.add_parser(
        "show",
        help="wires, rates and their sources",
        epilog="example: tokenring-xdit topology show dgx-1, or "
        "tokenring-xdit topology show 'hgx-h100*4@ib-ndr' --yaml > topology.yaml",
    )
    show.add_argument("name", help="NODE, NODE*COUNT@FABRIC, a short form such as mesh:4:100mbit, or a YAML file")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--yaml", action="store_true", help="print the YAML file that describes it")
    show.set_defaults(run=_show)


def _list(args: argparse.Namespace) -> None:
    presets = [preset for preset in map(find_preset, PRESETS) if preset is not None]
    if args.json:
        nodes = [{"name": preset.name, "what": preset.what, "measured": False} for preset in presets]
        fabrics = [{"name": fabric.name, "what": fabric.what, "source": fabric.source} for fabric in FABRICS.values()]
        print(json.dumps({"nodes": nodes, "fabrics": fabrics}))
        return
    width = max(map(len, (*PRESETS, *FABRICS)))
    print("nodes, with figures that makers publish (none was measured here):")
    for preset in presets:
        print(f"  {preset.name:<{width}}  {preset.what}")
    print("fabrics that join them, as in hgx-h100*4@ib-ndr:")
    for fabric in FABRICS.values():
        print(f"  {fabric.name:<{width}}  {fabric.what}")


def _show(args: argparse.Namespace) -> None:
    preset = find_preset(args.name)
    network = load_topology(args.name)
    remarks = {} if preset is None else preset.remarks()
    if args.yaml:
        print(network_to_yaml(network, remarks), end="")
    elif args.json:
        print(json.dumps({"name": network.name, **network_to_mapping(network), **remarks}))
    else:
        print(_table(network))
        if preset is not None:
            print("\n".join([preset.what, "not measured here; sources:", *(f"  {text}" for text in preset.sources)]))


def _table(network: Network) -> str:
    width = max(len(str(wire)) for wire in network.wires)
    lines = [
        f"{network.name}: {len(network.hosts)} hosts, {len(network.switches)} switches, {len(network.wires)} wires; "
        f"{_COUNTED[network.counts]}; {'hosts pass on' if network.hosts_forward else 'hosts do not pass on'} what is "
        "for others",
        f"{'wire':<{width}} {'there':>12} {'back':>12} {'delay':>10}",
    ]
    for wire in network.wires:
        delay = f"{wire.delay * 1e6:g} us" if wire.delay else "-"
        lines.append(f"{wire!s:<{width}} {wire.rate!s:>12} {wire.back!s:>12} {delay:>10}")
    return "\n".join(lines)
