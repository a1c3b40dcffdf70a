"""A network as data: hosts, switches, the links between them and the routes over them.

:mod:`tokenring_xdit.lab.network` builds such a network on this machine, :mod:`tokenring_xdit.planning.simulate` times a
schedule on it.

A :class:`Network` comes from a short form (``mesh:4:100mbit``), from a YAML file
(:mod:`~tokenring_xdit.topology.files`), from a preset (:mod:`~tokenring_xdit.topology.presets`) or from a measurement
(:mod:`~tokenring_xdit.probe.infer`).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import named, names_of, shown
from tokenring_xdit.spec import Whole, unknown
from tokenring_xdit.topology.links import FRAME_SHARE, Counts, Link, Rate

__all__ = [
    "EXAMPLES",
    "MOST_NODES",
    "Network",
    "host_names",
    "parse_network",
]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
MOST_NODES = 4096
"""Hosts and switches of a network; more are a slip of the pen."""
_MOST_LINKS = 100_000
"""As many as join 447 hosts, each to each."""

EXAMPLES = "mesh:4:100mbit, star:8:1gbit, ring:4:100mbit, two-level:2x4:1gbit:100mbit, or a file.yaml"
"""One example of each way to name a network."""


@dataclass(frozen=True)
class Network:
    """Hosts and switches joined by links; rank ``r`` is at ``hosts[r]``.

    Attributes:
        name: The short form, or the file that it came from.
        hosts: Nodes that compute. They pass on what is for others where a route leads through them.
        switches: Nodes that only pass on.
        links: At most one between two nodes.
        hosts_forward: Whether hosts pass on what is for others, as those of an emulated network do and GPUs do not.
        counts: What the rates of the links count.
        devices: What its hosts were when it was measured; empty where it was not.
        emulation: The emulated network in which it was measured; empty where it was not in one.

    Raises:
        ConfigurationError: It cannot work; the message names what is wrong.
    """

    name: str
    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    links: tuple[Link, ...]
    hosts_forward: bool = True
    counts: Counts = Counts.FRAMES
    devices: tuple[str, ...] = field(default=(), compare=False)
    emulation: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        self._check_nodes()
        self._check_links()
        unreachable = [host for host in self.hosts if not self.reaches(host, self.hosts[0])]
        if unreachable:  # ways lead back as well, as all links have two directions
            raise self._wrong(f"no links lead from {self.hosts[0]} to {names_of(unreachable)}")

    @property
    def nodes(self) -> tuple[str, ...]:
        """Hosts, then switches."""
        return self.hosts + self.switches

    @property
    def of_accelerators(self) -> bool:
        """Whether its hosts are GPUs or the like, so that a processor tells nothing of how they compute."""
        return any(device != "cpu" for device in self.devices) if self.devices else not self.hosts_forward

    @property
    def is_emulated(self) -> bool:
        """Whether it is one that this machine builds, or was measured in one."""
        return self.counts is Counts.FRAMES or bool(self.emulation)

    @property
    def payload_share(self) -> float:
        """Bits of payload in each bit of its rates."""
        return FRAME_SHARE if self.counts is Counts.FRAMES else 1.0

    def in_frames(self) -> Network:
        """The same network with rates that count frames, as an emulated one needs them."""
        if self.counts is not Counts.PAYLOAD:
            return replace(self, counts=Counts.FRAMES)
        links = (
            replace(w, rate=w.rate.scaled(1 / FRAME_SHARE), back=w.back.scaled(1 / FRAME_SHARE)) for w in self.links
        )
        return replace(self, links=tuple(links), counts=Counts.FRAMES)

    def neighbours(self, node: str) -> tuple[str, ...]:
        """Nodes at the other ends of its links, those that are ``b`` of a link first."""
        return self._neighbours[node]

    def link(self, one: str, other: str) -> Link:
        """The link between two neighbours."""
        return self._links[frozenset((one, other))]

    def reaches(self, source: str, destination: str) -> bool:
        """Whether links lead from one node to another: always, between hosts."""
        return source in self._distances(destination)

    def route(self, source: str, destination: str) -> tuple[str, ...]:
        """Nodes that a packet visits, both ends included: one of the ways with fewest links.

        Of several, the one that leaves over the first of :meth:`neighbours`: in a ring, clockwise.
        """
        path = [source]
        while path[-1] != destination:
            path.append(self.onward(path[-1], destination))
        return tuple(path)

    def onward(self, node: str, destination: str) -> str:
        """The next node on the route from another one."""
        if frozenset((node, destination)) in self._links:
            return destination
        distances = self._distances(destination)
        return min((n for n in self._forwarding[node] if n in distances), key=distances.__getitem__)

    def refuse_ranks(self, ranks: int) -> None:
        """Refuse ranks that have no host each.

        Raises:
            ConfigurationError: There are fewer hosts, or no ranks.
        """
        if not 1 <= ranks <= len(self.hosts):
            raise ConfigurationError(
                f"{ranks} ranks do not fit into network '{self.name}': each has a host of its own, and there are "
                f"{len(self.hosts)}"
            )

    def slowest_rate(self, source: str, destination: str) -> Rate:
        """The rate of the slowest link on the route, in the direction of travel."""
        path = self.route(source, destination)
        return min(self.link(a, b).rate_from(a) for a, b in pairwise(path))

    def payload_rate(self, way: tuple[str, str]) -> float:
        """Bytes of payload a second that a link carries from one of its ends to the other."""
        return self.link(*way).rate_from(way[0]).bits_per_second / 8 * self.payload_share

    @cached_property
    def _links(self) -> dict[frozenset[str], Link]:
        return {frozenset(link.ends): link for link in self.links}

    @cached_property
    def _neighbours(self) -> dict[str, tuple[str, ...]]:
        ahead: dict[str, list[str]] = {node: [] for node in self.nodes}
        behind: dict[str, list[str]] = {node: [] for node in self.nodes}
        for link in self.links:
            ahead[link.a].append(link.b)
            behind[link.b].append(link.a)
        return {node: (*ahead[node], *behind[node]) for node in self.nodes}

    @cached_property
    def _forwarding(self) -> dict[str, tuple[str, ...]]:
        """Of the neighbours of each node those that pass on what is for others: few, where hosts do not."""
        return {node: tuple(filter(self._forwards, every)) for node, every in self._neighbours.items()}

    @cached_property
    def _switches(self) -> frozenset[str]:
        return frozenset(self.switches)

    @cached_property
    def _known_distances(self) -> dict[str, dict[str, int]]:
        return {}

    def _forwards(self, node: str) -> bool:
        return self.hosts_forward or node in self._switches

    def _distances(self, destination: str) -> dict[str, int]:
        """Links between each node and the destination, of the nodes that reach it."""
        if destination in self._known_distances:
            return self._known_distances[destination]
        distances = self._known_distances[destination] = {destination: 0}
        queue = deque([destination])
        while queue:
            node = queue.popleft()
            for other in self.neighbours(node):
                if other not in distances:
                    distances[other] = distances[node] + 1
                    if self._forwards(other):
                        queue.append(other)
        return distances

    def _check_nodes(self) -> None:
        if len(self.hosts) < 2:
            raise self._wrong(f"{len(self.hosts)} hosts are no network: at least 2 are needed")
        if len(self.nodes) > MOST_NODES:
            raise self._wrong(
                f"{len(self.nodes)} hosts and switches are more than the {MOST_NODES} that are planned for"
            )
        for node in self.nodes:
            if not _NAME.fullmatch(node):
                raise self._wrong(
                    f"{shown(node)} is no name for a host or switch: up to 16 of a-z, 0-9 and -, a letter first"
                )
        for node, count in Counter(self.nodes).items():
            if count > 1:
                raise self._wrong(f"two nodes have the name '{node}'")

    def _check_links(self) -> None:
        if len(self.links) > _MOST_LINKS:
            raise self._wrong(f"{len(self.links)} links are more than the {_MOST_LINKS} that are planned for")
        seen: set[frozenset[str]] = set()
        nodes = frozenset(self.nodes)
        for link in self.links:
            for end in link.ends:
                if end not in nodes:
                    raise self._wrong(f"a link ends at {shown(end)}, which is no host or switch. {self._like(end)}")
            if link.a == link.b:
                raise self._wrong(f"a link joins {link.a} to itself")
            if frozenset(link.ends) in seen:
                raise self._wrong(f"two links join {link.a} and {link.b}: write one with the sum of their rates")
            seen.add(frozenset(link.ends))
            sizes = [size for size, _ in link.messages]
            if sizes != sorted(set(sizes)) or min(sizes, default=1) < 1:
                raise self._wrong(f"the messages of link {link} are not in the order of their sizes, from 1 byte")

    def _like(self, name: str) -> str:
        """What nodes there are, and which is meant; of many only the latter."""
        words = nearest(named(name), self.nodes)
        return words if len(words) < 500 else words.rpartition(". ")[2]

    def _wrong(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"network {shown(self.name)}: {problem}")


def parse_network(text: str) -> Network:
    """A network from its short form.

    * ``mesh:N:RATE``: a link between every two of N hosts;
    * ``star:N:RATE``: N hosts with one link each, into one switch;
    * ``ring:N:RATE``: a link from each host to the next, and from the last to the first;
    * ``two-level:GxN:INNER:OUTER``: G groups of N hosts. Each group is a star of rate INNER, and its
      switch has one link of rate OUTER to a switch that joins the groups.

    Raises:
        ConfigurationError: It is none of these; the message says what is wrong and shows examples.
    """
    form, *arguments = text.strip().split(":")
    if form not in _FORMS:
        raise ConfigurationError(f"{unknown('network', text, _FORMS, like=form)} Examples: {EXAMPLES}")
    names, build = _FORMS[form]
    if len(arguments) != len(names):
        raise ConfigurationError(
            f"network {shown(text)} has {len(arguments)} of the {len(names)} parts of {form}:{':'.join(names)}. "
            f"Examples: {EXAMPLES}"
        )
    try:
        return build(text.strip(), *arguments)
    except ConfigurationError as error:
        if str(error).startswith("network "):
            raise
        raise ConfigurationError(f"network {shown(text)}: {error}. Examples: {EXAMPLES}") from error


def host_names(count: int) -> tuple[str, ...]:
    """Names of hosts that nobody named: h0, h1, ..."""
    return tuple(f"h{index}" for index in range(count))


def _mesh(name: str, count: str, rate: str) -> Network:
    hosts = host_names(_number(count, "hosts"))
    each = Rate.parse(rate)
    if len(hosts) * (len(hosts) - 1) // 2 > _MOST_LINKS:
        raise ConfigurationError(f"{count} hosts joined each to each have more than {_MOST_LINKS} links")
    return Network(
        name, hosts, (), tuple(Link(a, b, each, each) for index, a in enumerate(hosts) for b in hosts[index + 1 :])
    )


def _star(name: str, count: str, rate: str) -> Network:
    hosts = host_names(_number(count, "hosts"))
    each = Rate.parse(rate)
    return Network(name, hosts, ("switch",), tuple(Link(host, "switch", each, each) for host in hosts))


def _ring(name: str, count: str, rate: str) -> Network:
    hosts = host_names(_number(count, "hosts"))
    each = Rate.parse(rate)
    pairs = list(zip(hosts, hosts[1:] + hosts[:1], strict=True)) if len(hosts) > 2 else [hosts]
    return Network(name, hosts, (), tuple(Link(pair[0], pair[-1], each, each) for pair in pairs))


def _two_level(name: str, counts: str, inner: str, outer: str) -> Network:
    found = re.fullmatch(r"(\d+)x(\d+)", counts)
    if found is None:
        raise ConfigurationError(f"{shown(counts)} is not groups x hosts, as in 2x4")
    groups, each = _number(found[1], "groups"), _number(found[2], "hosts of a group")
    inner_rate, outer_rate = Rate.parse(inner), Rate.parse(outer)
    if groups * each > MOST_NODES:
        raise ConfigurationError(f"{groups} x {each} hosts are more than the {MOST_NODES} that are planned for")
    if groups < 2:
        raise ConfigurationError("one group has nobody to talk to: take at least 2 groups, or a star")
    hosts = host_names(groups * each)
    switches = tuple(f"switch{group}" for group in range(groups))
    ports = tuple(Link(host, switches[i // each], inner_rate, inner_rate) for i, host in enumerate(hosts))
    uplinks = tuple(Link(switch, "core", outer_rate, outer_rate) for switch in switches)
    return Network(name, hosts, (*switches, "core"), ports + uplinks)


def _number(text: str, what: str) -> int:
    number = Whole(MOST_NODES).read(text)
    if number is None:
        raise ConfigurationError(f"{shown(text)} is no number of {what} from 1 to {MOST_NODES}")
    return number


_FORMS: dict[str, tuple[tuple[str, ...], Callable[..., Network]]] = {
    "mesh": (("N", "RATE"), _mesh),
    "star": (("N", "RATE"), _star),
    "ring": (("N", "RATE"), _ring),
    "two-level": (("GxN", "INNER", "OUTER"), _two_level),
}
