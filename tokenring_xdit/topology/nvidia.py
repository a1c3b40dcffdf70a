"""NVIDIA GPUs of one machine and the links between them, as ``nvidia-smi topo -m`` prints them.

:func:`parse` reads that matrix, :func:`best_order` puts GPUs in the order in which neighbours of a ring
share the most NVLinks, :func:`remarks` says where the order has to do without.

The launch scripts run :func:`main`: ``nvidia-smi topo -m | python -m tokenring_xdit.topology``
prints the order as CUDA_VISIBLE_DEVICES wants it, and the remarks on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError, TokenRingError

__all__ = [
    "GpuLink",
    "GpuTopology",
    "LinkKind",
    "best_order",
    "main",
    "parse",
    "remarks",
    "ring_pairs",
    "ulysses_pairs",
]

_EXACT_UP_TO = 8
"""Orders of this many GPUs are all compared: 7!/2 = 2520 rings, 7! = 5040 where Ulysses takes part."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU(\d+)")
_NVLINKS = re.compile(r"NV(\d+)")


class LinkKind(Enum):
    """How two GPUs reach each other. The values are the words that nvidia-smi explains in its legend."""

    NVLINK = "NVLink"
    SWITCH = "PIX"
    SWITCHES = "PXB"
    HOST_BRIDGE = "PHB"
    NODE = "NODE"
    SYSTEM = "SYS"

    @property
    def path(self) -> str:
        """What the data passes, in words."""
        return _PATHS[self]


_PATHS = {
    LinkKind.NVLINK: "NVLink",
    LinkKind.SWITCH: "one PCIe switch",
    LinkKind.SWITCHES: "several PCIe switches",
    LinkKind.HOST_BRIDGE: "PCIe and the CPU's host bridge",
    LinkKind.NODE: "PCIe and several host bridges of one CPU",
    LinkKind.SYSTEM: "PCIe and the link between CPU sockets",
}
_WORDS = {kind.value: kind for kind in LinkKind if kind is not LinkKind.NVLINK} | {
    "SOC": LinkKind.SYSTEM,  # the word for SYS in drivers of 2017 and before
}
_FARTHEST_FIRST = tuple(LinkKind)[::-1]


@dataclass(frozen=True)
class GpuLink:
    """The link between two GPUs.

    Attributes:
        kind: How they reach each other.
        nvlinks: Number of NVLinks bonded together, 0 where they have none in common.
    """

    kind: LinkKind
    nvlinks: int = 0

    @classmethod
    def read(cls, word: str) -> GpuLink:
        """The link that a word of the matrix stands for.

        Raises:
            ConfigurationError: The word is none that nvidia-smi is known to print.
        """
        if bonded := _NVLINKS.fullmatch(word):
            return cls(LinkKind.NVLINK, int(bonded[1]))
        if word not in _WORDS:
            raise ConfigurationError(f"'{word}' is no link between GPUs; known: NV1, NV2, ..., {', '.join(_WORDS)}")
        return cls(_WORDS[word])

    @property
    def nearness(self) -> int:
        """The greater, the shorter the way."""
        return _FARTHEST_FIRST.index(self.kind)

    def __str__(self) -> str:
        return f"NV{self.nvlinks}" if self.nvlinks else self.kind.value


@dataclass(frozen=True)
class GpuTopology:
    """The GPUs of a machine and their links.

    Attributes:
        gpus: Their indices, as nvidia-smi numbers them.
        links: ``links[i][j]`` joins ``gpus[i]`` and ``gpus[j]``; ``None`` on the diagonal.
    """

    gpus: tuple[int, ...]
    links: tuple[tuple[GpuLink | None, ...], ...]

    def between(self, one: int, other: int) -> GpuLink:
        """The link between two different GPUs, named by index."""
        link = self.links[self.gpus.index(one)][self.gpus.index(other)]
        if link is None:
            raise ValueError(f"GPU {one} has no link to itself")
        return link


def parse(text: str) -> GpuTopology:
    """Read what ``nvidia-smi topo -m`` printed; columns and rows of network cards are left out.

    Raises:
        ConfigurationError: The text holds no such matrix, or one that contradicts itself.
    """
    lines = [_ESCAPES.sub("", line).split() for line in text.splitlines()]
    header = next((words for words in lines if words[:1] == ["GPU0"] and "X" not in words[1:2]), None)
    if header is None:
        raise ConfigurationError("this is no output of 'nvidia-smi topo -m': it has no line with the names of the GPUs")
    names = list(itertools.takewhile(_GPU.fullmatch, header))
    rows = {words[0]: words[1 : len(names) + 1] for words in lines if words and words[0] in names and words != header}
    missing = [name for name in names if name not in rows]
    if missing:
        raise ConfigurationError(f"the matrix of 'nvidia-smi topo -m' has no row for {', '.join(missing)}")
    links = tuple(tuple(_row(name, rows[name], names)) for name in names)
    for i, j in itertools.combinations(range(len(names)), 2):
        if links[i][j] != links[j][i]:
            raise ConfigurationError(
                f"the matrix contradicts itself: {names[i]} to {names[j]} is {links[i][j]}, "
                f"{names[j]} to {names[i]} is {links[j][i]}"
            )
    return GpuTopology(tuple(int(name.removeprefix("GPU")) for name in names), links)


def _row(name: str, words: Sequence[str], names: Sequence[str]) -> Iterator[GpuLink | None]:
    if len(words) < len(names):
        raise ConfigurationError(f"the row of {name} has {len(words)} entries for {len(names)} GPUs")
    for other, word in zip(names, words, strict=True):
        if (word == "X") != (name == other):
            raise ConfigurationError(f"the entry of {name} for {other} is '{word}'; X stands for a GPU itself")
        yield None if word == "X" else GpuLink.read(word)


def ring_pairs(order: Sequence[int], ulysses: int = 1) -> list[tuple[int, int]]:
    """Neighbours in TokenRing's rings, each pair once: one sends its queries to the other."""
    return [pair for ring in _rings(order, ulysses) for pair in _around(ring)]


def _rings(order: Sequence[int], ulysses: int) -> list[Sequence[int]]:
    # xfuser puts Ulysses groups on consecutive ranks. The rings lead from group to group, one through the
    # first ranks of all groups, one through the second ones, and so on.
    return [order[first::ulysses] for first in range(ulysses)]


def _around(ring: Sequence[int]) -> list[tuple[int, int]]:
    if len(ring) < 3:
        return list(itertools.combinations(ring, 2))
    return [(one, ring[(i + 1) % len(ring)]) for i, one in enumerate(ring)]


def _return_pairs(order: Sequence[int], ulysses: int) -> list[tuple[int, int]]:
    """Pairs that return partial outputs to each other: all of a ring, by TokenRing straight to the owner."""
    return [pair for ring in _rings(order, ulysses) for pair in itertools.combinations(ring, 2)]


def ulysses_pairs(order: Sequence[int], ulysses: int) -> list[tuple[int, int]]:
    """Pairs that exchange heads, all with all of one Ulysses group."""
    groups = (order[first : first + ulysses] for first in range(0, len(order), ulysses))
    return [pair for group in groups for pair in itertools.combinations(group, 2)]


def best_order(
    topology: GpuTopology, gpus: Sequence[int] | None = None, ranks: int | None = None, ulysses: int = 1
) -> tuple[int, ...]:
    """Choose GPUs and put them in order along their NVLinks; rank ``r`` is to take the ``r``-th.

    Of two orders the better one has more NVLinks between the neighbours of a ring that have fewest, for
    every step waits for them; then more between all neighbours; then more between all of a ring, because
    TokenRing returns partial outputs straight to their owners; then the shorter PCIe paths. Where Ulysses
    takes part its pairs count before all that: no computation hides what they exchange. Of equals the one
    nearest to the order of the indices is taken. Up to eight GPUs all orders are compared. Of more, the
    first ones are taken and their order is improved until no reversed stretch is better.

    Args:
        topology: The machine.
        gpus: The GPUs that may be used; all of them by default.
        ranks: How many to use; all that may be used by default.
        ulysses: Size of the Ulysses groups.

    Returns:
        Their indices, the lowest first.

    Raises:
        ConfigurationError: A GPU is not there or named twice, there are fewer than ``ranks``, or they
            make up no whole Ulysses groups.
    """
    allowed = sorted(topology.gpus if gpus is None else gpus)
    if unknown := [gpu for gpu in allowed if gpu not in topology.gpus]:
        raise ConfigurationError(f"there is no GPU {unknown[0]}; this machine has {_listed(topology.gpus)}")
    if len(set(allowed)) < len(allowed):
        raise ConfigurationError(f"a GPU is named twice: {_listed(allowed)}")
    ranks = len(allowed) if ranks is None else ranks
    if not 1 <= ranks <= len(allowed):
        raise ConfigurationError(f"{ranks} ranks were asked for; {len(allowed)} GPUs may be used")
    if ulysses < 1 or ranks % ulysses:
        raise ConfigurationError(f"{ranks} ranks on this machine make up no whole Ulysses groups of {ulysses}")
    if len(allowed) > _EXACT_UP_TO:
        return _improved(topology, allowed[:ranks], ulysses)
    orders = itertools.chain.from_iterable(_orders(some, ulysses) for some in itertools.combinations(allowed, ranks))
    return max(orders, key=lambda order: _quality(topology, order, ulysses))  # the first of equals


def _orders(gpus: Sequence[int], ulysses: int) -> Iterator[tuple[int, ...]]:
    """Every order that differs from the others in more than where it begins and which way it goes."""
    for rest in itertools.permutations(gpus[1:]):
        if ulysses > 1 or len(rest) < 2 or rest[0] < rest[-1]:
            yield (gpus[0], *rest)


def _improved(topology: GpuTopology, gpus: Sequence[int], ulysses: int) -> tuple[int, ...]:
    best = tuple(gpus)
    while True:
        stretches = itertools.combinations(range(1, len(best) + 1), 2)
        reversals = (best[:i] + best[i:j][::-1] + best[j:] for i, j in stretches)
        better = max(reversals, key=lambda order: _quality(topology, order, ulysses), default=best)
        if _quality(topology, better, ulysses) <= _quality(topology, best, ulysses):
            return best
        best = better


def _quality(topology: GpuTopology, order: Sequence[int], ulysses: int) -> tuple[int, ...]:
    groups = [topology.between(*pair) for pair in ulysses_pairs(order, ulysses)]
    neighbours = [topology.between(*pair) for pair in ring_pairs(order, ulysses)]
    return (
        min((link.nvlinks for link in groups), default=0),
        sum(link.nvlinks for link in groups),
        min((link.nvlinks for link in neighbours), default=0),
        sum(link.nvlinks for link in neighbours),
        sum(topology.between(*pair).nvlinks for pair in _return_pairs(order, ulysses)),
        min((link.nearness for link in groups), default=0),
        min((link.nearness for link in neighbours), default=0),
        sum(link.nearness for link in groups + neighbours),
    )


def remarks(topology: GpuTopology, order: Sequence[int], ulysses: int = 1) -> list[str]:
    """What is worth knowing before ranks are put on these GPUs in this order; empty where NVLink joins all."""

    def bare(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [pair for pair in pairs if not topology.between(*pair).nvlinks]

    everything = list(itertools.combinations(order, 2))
    if len(bare(everything)) == len(everything) > 0:
        return [
            f"warning: no two of the GPUs {_listed(order)} are connected by NVLink; all that they exchange goes by "
            f"{_ways(topology.between(*pair) for pair in everything)}."
        ]
    found = [
        f"warning: {len(bare(pairs))} of {len(pairs)} pairs of {what} are not connected by NVLink: "
        f"{', '.join(f'GPU {one} and GPU {other}' for one, other in bare(pairs))}. What they exchange goes by "
        f"{_ways(topology.between(*pair) for pair in bare(pairs))}, and all wait for the slowest pair. Fewer ranks "
        "(--ranks) or other GPUs (--gpus) may avoid that."
        for what, pairs in (
            ("a Ulysses group", ulysses_pairs(order, ulysses)),
            ("neighbours in the ring", ring_pairs(order, ulysses)),
        )
        if bare(pairs)
    ]
    neighbours = {frozenset(pair) for pair in ring_pairs(order, ulysses)}
    returning = _return_pairs(order, ulysses)
    if apart := [pair for pair in bare(returning) if frozenset(pair) not in neighbours]:
        found.append(
            f"note: {len(apart)} of {len(returning)} pairs of a ring are not neighbours and not connected by NVLink; "
            f"partial outputs that TokenRing returns between them go by "
            f"{_ways(topology.between(*pair) for pair in apart)}, unless NCCL knows another way."
        )
    return found


def _ways(links: Iterable[GpuLink]) -> str:
    kinds = sorted({link.kind for link in links}, key=_FARTHEST_FIRST.index, reverse=True)
    return " and ".join(f"{kind.value} ({kind.path})" for kind in kinds)


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _indices(text: str, source: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigurationError(
            f"{source} is '{text}'; GPUs are put in order by their indices in nvidia-smi, such as 0,1,2,3 "
            "(--keep-order takes names of any kind, as they are)"
        )
    return [int(word) for word in words]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the order on stdout and the remarks on stderr; see the launch scripts.

    Returns:
        0, or 2 where there is nothing to print an order of.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tokenring_xdit.topology",
        description="Order GPUs in a ring along their NVLinks; prints what CUDA_VISIBLE_DEVICES is to be set to.",
        epilog="example: nvidia-smi topo -m | python -m tokenring_xdit.topology --ranks 4",
    )
    parser.add_argument("file", nargs="?", type=Path, help="output of 'nvidia-smi topo -m'; stdin by default")
    parser.add_argument("--gpus", metavar="LIST", help="use these only, such as 0,1,2,3")
    parser.add_argument("--visible", metavar="LIST", help="what CUDA_VISIBLE_DEVICES was set to, where it was")
    parser.add_argument("--ranks", type=int, metavar="N", help="how many to use; all by default")
    parser.add_argument("--ulysses-degree", type=int, default=1, metavar="U", help="size of the Ulysses groups")
    args = parser.parse_args(argv)
    try:
        topology = parse(sys.stdin.read() if args.file is None else args.file.read_text(errors="replace"))
        visible = None if args.visible is None else _indices(args.visible, "CUDA_VISIBLE_DEVICES")
        gpus = visible if args.gpus is None else _indices(args.gpus, "--gpus")
        if visible is not None and (hidden := [gpu for gpu in gpus or () if gpu not in visible]):
            raise ConfigurationError(f"GPU {hidden[0]} is not in CUDA_VISIBLE_DEVICES, which is {args.visible}")
        ranks = len(topology.gpus if gpus is None else gpus) if args.ranks is None else args.ranks
        # Groups that reach beyond this machine: it is one part of them.
        ulysses = ranks if args.ulysses_degree < 1 or ranks % args.ulysses_degree else args.ulysses_degree
        order = best_order(topology, gpus, ranks, ulysses)
    except (TokenRingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for remark in remarks(topology, order, ulysses):
        print(remark, file=sys.stderr)
    print(_listed(order))
    return 0
