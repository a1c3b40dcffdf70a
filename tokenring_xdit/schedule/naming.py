"""What a schedule is called: a name, and options behind a colon, as in ``direct:chunks=4``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.algorithm import Algorithm, Default, Published
from tokenring_xdit.schedule.builders import ALGORITHMS
from tokenring_xdit.schedule.plan import Mask, Schedule
from tokenring_xdit.spec import Grammar, Option, Whole, Word, written

__all__ = ["MOST_RANKS", "ScheduleSpec", "known_as", "parse"]

MOST_RANKS = 4096
"""Largest number of nodes, rows or peers."""

_MOST_CHUNKS = 64
"""More pieces than this only cost time."""


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule asked for by name.

    Attributes:
        name: One of :data:`~tokenring_xdit.schedule.builders.ALGORITHMS`.
        options: Options that differ from their defaults, in alphabetical order.
    """

    name: str
    options: tuple[tuple[str, Default], ...] = ()

    def __str__(self) -> str:
        return written(self.name, self.options)

    @property
    def algorithm(self) -> Algorithm:
        """What is known of it."""
        return ALGORITHMS[self.name]

    def having(self, **options: Default) -> ScheduleSpec:
        """The same schedule with other options."""
        return _spec(self.name, {**dict(self.options), **options})

    def over_nodes(self, nodes: int) -> ScheduleSpec:
        """This schedule inside each of several nodes, and a ring of keys between them; itself for one node.

        Raises:
            ScheduleError: It has options that it cannot have there.
        """
        if nodes == 1:
            return self
        (across,) = (name for name, algorithm in ALGORITHMS.items() if algorithm.across_nodes)
        options = {**dict(self.options), "nodes": nodes, "inside": self.name}
        return parse(written(across, options.items()))

    def in_nodes(self) -> tuple[ScheduleSpec, int]:
        """What runs inside each node, and the number of nodes: itself and 1 where it does not tell nodes apart."""
        if not self.algorithm.across_nodes:
            return self, 1
        options = {**self.algorithm.options, **dict(self.options)}
        inside, nodes = options.pop("inside"), options.pop("nodes")
        assert isinstance(inside, str)
        assert isinstance(nodes, int)
        return _spec(inside, options), nodes

    def plan(self, world_size: int, mask: Mask = Mask.FULL, heads: int = 0) -> Schedule:
        """The plan, not proved yet.

        Args:
            world_size: Number of ranks.
            mask: Which pairs of query and key blocks are asked for.
            heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.

        Raises:
            ScheduleError: It is not defined for this mask or this number of ranks.
        """
        if world_size < 1:
            raise ScheduleError(f"a schedule needs at least one rank, not {world_size}")
        options = dict(self.options)
        wide = options.pop("wide", 1)
        assert isinstance(wide, int)
        return replace(self.algorithm.plan(world_size, mask, heads, wide=wide, **options), name=str(self))


def parse(text: str) -> ScheduleSpec:
    """Read ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``.

    Raises:
        ScheduleError: There is no such schedule or option, or the option does not take that value.
    """
    return _spec(*_FORM.read(text))


def known_as(published: Published) -> str:
    """The name of the schedule that others call so."""
    (name,) = (name for name, algorithm in ALGORITHMS.items() if algorithm.published is published)
    return name


def _spec(name: str, options: Mapping[str, Default]) -> ScheduleSpec:
    """Options that are as nothing said are left out: so a schedule has one name."""
    defaults = ALGORITHMS[name].options
    return ScheduleSpec(name, tuple(sorted((o, v) for o, v in options.items() if v != defaults.get(o))))


def _taken(option: str, default: Default) -> Option:
    if isinstance(default, str):
        return Word()
    return Whole(_MOST_CHUNKS if option == "chunks" else MOST_RANKS)


_FORM = Grammar(
    "schedule",
    {
        name: {option: _taken(option, default) for option, default in algorithm.options.items()}
        for name, algorithm in ALGORITHMS.items()
    },
    ScheduleError,
)
