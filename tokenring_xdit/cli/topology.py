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

__all__ = ["list_command", "show_command"]

_COUNTED = {
    Counts.FRAMES: "rates of one direction, in Ethernet frames",
    Counts.PAYLOAD: "rates of one direction, in payload",
    Counts.LINK: "rates of one direction as makers publish them, protocol included",
}


def list_command(args: argparse.Namespace) -> None:
    """List all presets and fabrics."""
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


def show_command(args: argparse.Namespace) -> None:
    """Print a topology, link by link."""
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
    width = max(len(str(link)) for link in network.links)
    lines = [
        f"{network.name}: {len(network.hosts)} hosts, {len(network.switches)} switches, {len(network.links)} links; "
        f"{_COUNTED[network.counts]}; {'hosts pass on' if network.hosts_forward else 'hosts do not pass on'} what is "
        "for others",
        f"{'link':<{width}} {'there':>12} {'back':>12} {'delay':>10}",
    ]
    for link in network.links:
        delay = f"{link.delay * 1e6:g} us" if link.delay else "-"
        lines.append(f"{link!s:<{width}} {link.rate!s:>12} {link.back!s:>12} {delay:>10}")
    return "\n".join(lines)
