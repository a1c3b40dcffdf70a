"""What a node of an emulated network is told: settings of TCP, limits of its links, who takes what arrives."""

from __future__ import annotations

import os

from tokenring_xdit.lab.segments import CATCH_UP, segment
from tokenring_xdit.topology import Link, Network, Rate
from tokenring_xdit.topology.links import FRAME

__all__ = ["device", "limits", "settings", "steering"]

# TCP, IPv4 total length below 128 bytes, and of the flags ACK alone. Data that ends a message has PSH as well: if it
# overtook what was sent before, that would be taken for lost.
_ACKNOWLEDGEMENTS = "match u8 6 0xff at 9 match u16 0 0xff80 at 2 match u8 0x10 0xff at 33"


def settings(network: Network, node: str) -> str:
    """Shell commands, run inside the namespace, that set what TCP there needs to fill links in both directions."""
    queue = max(_queue(network, network.link(node, other), node) for other in network.neighbours(node))
    chosen = {
        "ipv4/ip_forward": "1",
        # The way there and the way back may differ.
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        # Little of each connection waits in the queue of a link, where everybody else would wait behind it, and
        # much in its own buffer, so that the link is not idle while the sender waits for a core.
        "ipv4/tcp_limit_output_bytes": str(queue),
        "ipv4/tcp_wmem": "4096 1048576 4194304",
        # Between two steps a connection is idle; each would start slowly again.
        "ipv4/tcp_slow_start_after_idle": "0",
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv6/conf/default/disable_ipv6": "1",
    }
    return _written({f"/proc/sys/net/{name}": value for name, value in chosen.items()})


def limits(network: Network, node: str) -> list[str]:
    """``tc`` commands that limit what a node sends into each of its links.

    Acknowledgements have a class of their own, served first: behind data of the other direction they would
    wait so long that both directions together carry no more than one.
    """
    lines = []
    for index, link in enumerate(network.links):
        if node in link.ends:
            rate = link.rate_from(node)
            at, whole = f"dev {device(index)}", rate.bits_per_second
            burst = f"ceil {whole}bit burst {_burst(rate)} cburst {_burst(rate)} quantum {FRAME}"
            first = max(whole // 5, 8)
            lines += [
                f"qdisc add {at} root handle 1: htb default 20",
                f"class add {at} parent 1: classid 1:1 htb rate {whole}bit {burst}",
                f"class add {at} parent 1:1 classid 1:10 htb prio 0 rate {first}bit {burst}",
                f"class add {at} parent 1:1 classid 1:20 htb prio 1 rate {max(whole - first, 8)}bit {burst}",
                f"filter add {at} parent 1: protocol ip u32 {_ACKNOWLEDGEMENTS} flowid 1:10",
            ]
    return lines


def steering(network: Network, node: str) -> str:
    """Shell commands, run inside the namespace, that let one processor take all that arrives over a link.

    Otherwise each packet is taken by the one that its sender happens to run on: packets of a connection overtake each
    other, and TCP holds those for lost, sends them again and slows down.
    """
    processors = os.cpu_count() or 1
    return _written(
        {
            # Another one at the other end: what goes there and what comes back are both much work.
            f"/sys/class/net/{device(index)}/queues/rx-0/rps_cpus": _only(
                (2 * index + link.ends.index(node)) % processors
            )
            for index, link in enumerate(network.links)
            if node in link.ends
        }
    )


def device(link: int) -> str:
    """Name of both ends of a link, each in its own namespace."""
    return f"link{link}"


def _burst(rate: Rate) -> int:
    """Bytes that a link may send at once after a pause, as timers of a busy machine are late."""
    return max(2 * FRAME, round(rate.bits_per_second / 8 * CATCH_UP))


def _queue(network: Network, link: Link, node: str) -> int:
    """Bytes that a connection may have in the queue of a link, where the other connections wait behind them."""
    return 2 * segment(network, link, node)


def _written(files: dict[str, str]) -> str:
    """Shell commands that write files of the kernel, those that this one has."""
    return "\n".join(f"[ ! -e {path} ] || echo {text} > {path}" for path, text in files.items())


def _only(processor: int) -> str:
    """A set of one processor, as the kernel writes it: words of 32 bits, the last ones first."""
    words, bit = divmod(processor, 32)
    return ",".join([f"{1 << bit:x}", *["0"] * words])
