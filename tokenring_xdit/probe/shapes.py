"""Networks that figures may come from: their links without rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations, pairwise

from tokenring_xdit.probe.figures import Figures, TrialKind
from tokenring_xdit.topology.links import Counts, Link, Rate
from tokenring_xdit.topology.network import Network, host_names

__all__ = ["Candidate", "NetworkShape", "Tier", "candidates"]

_NO_RATE = Rate(1)  # until it is found
_FASTER = 1.3  # this multiple of the rate of other pairs makes a group
_SHARED = 0.75  # two transfers that keep less than this of their rates share a link


class NetworkShape(Enum):
    """What a network looks like. The values are for people."""

    PAIR = "a pair"
    MESH = "a full mesh"
    STAR = "a star"
    RING = "a ring"
    TWO_LEVEL = "two levels"

    @property
    def short_form(self) -> str:
        """As it is called in ``mesh:4:100mbit`` and the like; a pair is the smallest mesh."""
        return "mesh" if self is NetworkShape.PAIR else self.name.lower().replace("_", "-")


class Tier(Enum):
    """Links of a network that are likely to be alike. The values are for people."""

    LINK = "a link between every two"
    PORT = "one port each"
    NEXT = "a link from each to the next"
    INNER_PORT = "one port each inside its group"
    INNER_LINK = "a link between every two of a group"
    ACCESS = "a link from each to the one that its group shares"
    UPLINK = "one link that a group shares to the others"
    OWN_PORT = "one port each to the other groups"


@dataclass(frozen=True)
class Candidate:
    """A network whose rates are not known yet.

    Attributes:
        shape: What it looks like.
        network: Its links and routes.
        tiers: The tier of each link.
        order: Ranks in the order of the ring, or group by group.
        groups: Ranks of each group; empty without groups.
        freedom: The greater, the more networks it can imitate.
    """

    shape: NetworkShape
    network: Network
    tiers: tuple[Tier, ...]
    freedom: int
    order: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()


def candidates(figures: Figures) -> Iterator[Candidate]:
    """All networks that are considered for figures, simple ones first."""
    ranks = figures.ranks
    hosts = host_names(ranks)
    mesh = NetworkShape.PAIR if ranks == 2 else NetworkShape.MESH
    yield _candidate(mesh, 0, hosts, (), [(a, b, Tier.LINK) for a, b in combinations(hosts, 2)])
    if ranks == 2:
        return
    yield _candidate(NetworkShape.STAR, 1, hosts, ("switch",), [(host, "switch", Tier.PORT) for host in hosts])
    if ranks > 3:
        orders = [tuple(range(ranks)), *filter(None, [_ring_order(figures)])]
        # Half way round is clockwise, so that the other way round is another ring.
        for order in dict.fromkeys(way for each in orders for way in (each, each[::-1])):
            named = [hosts[rank] for rank in (*order, order[0])]
            links = [(a, b, Tier.NEXT) for a, b in pairwise(named)]
            yield _candidate(NetworkShape.RING, 1, hosts, (), links, order=order, forward=True)
    for groups in _groupings(figures):
        for inner_mesh in (False, True):
            for own in (False, True):
                yield _two_level(hosts, groups, inner_mesh=inner_mesh, own=own)


def _candidate(
    shape: NetworkShape,
    freedom: int,
    hosts: Sequence[str],
    switches: Sequence[str],
    links: Sequence[tuple[str, str, Tier]],
    *,
    order: tuple[int, ...] = (),
    groups: tuple[tuple[int, ...], ...] = (),
    forward: bool = False,
) -> Candidate:
    network = Network(
        "measured",
        tuple(hosts),
        tuple(switches),
        tuple(Link(a, b, _NO_RATE, _NO_RATE) for a, b, _ in links),
        forward,
        Counts.PAYLOAD,
    )
    return Candidate(shape, network, tuple(tier for *_, tier in links), freedom, order, groups)


def _two_level(hosts: Sequence[str], groups: tuple[tuple[int, ...], ...], *, inner_mesh: bool, own: bool) -> Candidate:
    """Groups that are stars or meshes inside, and reach each other over one shared link a group or one port a host."""
    links: list[tuple[str, str, Tier]] = []
    switches = []
    for index, ranks in enumerate(groups):
        members = [hosts[rank] for rank in ranks]
        if inner_mesh:
            links += [(a, b, Tier.INNER_LINK) for a, b in combinations(members, 2)]
        elif len(members) > 1:
            switches.append(f"switch{index}")
            links += [(host, f"switch{index}", Tier.INNER_PORT) for host in members]
    # Inner links stand first: of two ways with as many links the first is taken.
    for index, ranks in enumerate(groups):
        members = [hosts[rank] for rank in ranks]
        if own or len(members) == 1:
            links += [(host, "core", Tier.OWN_PORT if own else Tier.UPLINK) for host in members]
            continue
        if inner_mesh:
            switches.append(f"uplink{index}")
            links += [(host, f"uplink{index}", Tier.ACCESS) for host in members]
        links.append((f"uplink{index}" if inner_mesh else f"switch{index}", "core", Tier.UPLINK))
    freedom = (4 if inner_mesh else 2) if not own else 3
    order = tuple(rank for ranks in groups for rank in ranks)
    return _candidate(NetworkShape.TWO_LEVEL, freedom, hosts, [*switches, "core"], links, order=order, groups=groups)


def _groupings(figures: Figures) -> list[tuple[tuple[int, ...], ...]]:
    """Ways to divide the ranks: by how fast they reach each other, by host, and in equal runs or strides of ranks."""
    ranks = figures.ranks
    found = [_by_rate(figures), _by_place(figures)]
    for size in (size for size in range(2, ranks) if ranks % size == 0):
        count = ranks // size
        found.append(tuple(tuple(range(first, first + size)) for first in range(0, ranks, size)))
        found.append(tuple(tuple(range(first, ranks, count)) for first in range(count)))
    sensible = [groups for groups in found if 1 < len(groups) < ranks]
    return list(dict.fromkeys(sensible))


def _by_rate(figures: Figures) -> tuple[tuple[int, ...], ...]:
    """Ranks that reach each other faster than others, where a gap in the rates of pairs tells."""
    rates = sorted(figures.alone.values())
    gap, threshold = max(((after / before, after) for before, after in pairwise(rates)), default=(1.0, 0.0))
    if gap < _FASTER:
        return ()
    group = list(range(figures.ranks))
    for (source, destination), rate in figures.alone.items():
        if rate >= threshold:
            merged, into = group[source], group[destination]
            group = [into if index == merged else index for index in group]
    return _collected(group)


def _by_place(figures: Figures) -> tuple[tuple[int, ...], ...]:
    return _collected(figures.places)


def _collected(labels: Sequence[object]) -> tuple[tuple[int, ...], ...]:
    groups: dict[object, list[int]] = {}
    for rank, label in enumerate(labels):
        groups.setdefault(label, []).append(rank)
    return tuple(tuple(members) for members in groups.values())


def _ring_order(figures: Figures) -> tuple[int, ...]:
    """The order of a ring, as far as pairs that were suspected to share a link tell; empty where they do not."""
    sharing = set()
    for figure in figures.figures:
        if figure.trial.kind is TrialKind.SUSPECTED and all(t in figures.alone for t in figure.trial.transfers):
            kept = [rate / figures.alone[t] for rate, t in zip(figure.rates, figure.trial.transfers, strict=True)]
            if sum(kept) / 2 < _SHARED:
                sharing.add(frozenset(figure.trial.transfers))
    if not sharing:
        return ()
    others = range(1, figures.ranks)
    clockwise = [1, *(rank for rank in others if frozenset({(0, 1), (0, rank)}) in sharing and rank != 1)]
    back = [rank for rank in others if rank not in clockwise]

    def before(rank: int, side: Sequence[int]) -> int:
        return sum(frozenset({(0, rank), (other, rank)}) in sharing for other in side if other != rank)

    ahead = sorted(clockwise, key=lambda rank: before(rank, clockwise))
    behind = sorted(back, key=lambda rank: before(rank, back), reverse=True)
    return (0, *ahead, *behind)
