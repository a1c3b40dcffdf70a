"""What is known of a schedule beside its plan, stated where the plan is written.

A module of :mod:`tokenring_xdit.schedule.builders` registers its functions with :func:`algorithm`. Whoever needs
schedules of a kind (those that run inside a node, those for a causal mask, the one that a report calls TokenRing)
asks for the trait, so that no schedule's name occurs anywhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.causal import causal
from tokenring_xdit.schedule.plan import Mask, Schedule

__all__ = ["Algorithm", "Default", "Guess", "Look", "Published", "algorithm", "registered"]

Default = int | str | None
"""Of an option; ``None`` for a number that the schedule chooses."""


_EVERY_OPTION: dict[str, Default] = {"wide": 1}
"""Of all schedules: how many kernel calls, or merges, may become one
(:mod:`~tokenring_xdit.schedule.lower.widen`)."""


class Published(Enum):
    """What others call an algorithm: for those who look for it under that name."""

    RING = "Ring"
    TOKEN_RING = "TokenRing"


@dataclass(frozen=True)
class Guess:
    """A schedule is tried where nothing is known of the network.

    Attributes:
        place: Among all that are tried, the lowest first.
        options: With which it is tried, written as behind a name.
    """

    place: int
    options: str = ""


@dataclass(frozen=True)
class Look:
    """How reports draw a schedule.

    Attributes:
        hue: Name of a colour of the report's palette.
        symbol: Marker: a name of the report's symbols (``bench/report/symbols.py``).
        dash: ``solid``, ``dash``, ``dot`` or ``dashdot``.
    """

    hue: str
    symbol: str
    dash: str = "solid"


def _plain(world_size: int, heads: int) -> Iterable[str]:
    return ("",)


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A schedule that can be asked for by name, and its traits.

    Attributes:
        name: What it is asked for by.
        write: Writes the plan from the number of ranks, the number of heads where it cuts them, and its options.
        summary: One line for people.
        options: Options, with their defaults.
        masks: Masks that it is for. For the causal one only, ``write`` writes that plan; otherwise it writes the
            plan with the full mask, from which the causal one is derived.
        cuts_heads: Whether ``write`` is told, behind the number of ranks, what the numbers of query and key heads are
            multiples of; 0 where any cut will do.
        inside_nodes: Whether it can run inside each of several nodes; it has the option ``chunks`` then.
        across_nodes: Whether it is what runs between nodes, with the options ``nodes``, their number, and ``inside``,
            the name of what runs in each. There is one.
        many_ranks: Whether its plan is simulated in little time for very many ranks: not all transfers go on at once.
        worth: From a number of ranks and of heads to the options, written as behind a name, with which the planner
            times it in whole blocks: none where it is the same as another schedule, or surely slower.
        guess: Whether, when and how it is tried where nothing is known of the network.
        published: What others call it.
        look: How reports draw it; ``None`` leaves that to them.
    """

    name: str
    write: Callable[..., Schedule]
    summary: str
    options: Mapping[str, Default]
    masks: frozenset[Mask]
    cuts_heads: bool
    inside_nodes: bool
    across_nodes: bool
    many_ranks: bool
    worth: Callable[[int, int], Iterable[str]]
    guess: Guess | None
    published: Published | None
    look: Look | None

    def plan(
        self, world_size: int, mask: Mask = Mask.FULL, heads: int = 0, *, wide: int = 1, **options: Default
    ) -> Schedule:
        """The plan under a mask, not proved yet.

        Args:
            world_size: Number of ranks.
            mask: Which pairs of query and key blocks are asked for.
            heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
            wide: How many kernel calls, or merges, may become one.
            options: Those that differ from their defaults.

        Raises:
            ScheduleError: It is not for this mask, or not for this number of ranks.
        """
        if mask not in self.masks:
            (only,) = self.masks
            fitting = ", ".join(name for name, other in registered().items() if mask in other.masks)
            raise ScheduleError(
                f"schedule '{self.name}' works under a {only.value} mask only, and a {mask.value} mask was asked for. "
                f"Schedules for a {mask.value} mask: {fitting}"
            )
        plan = self.write(world_size, *((heads,) if self.cuts_heads else ()), **options)
        if mask is Mask.CAUSAL and plan.mask is Mask.FULL:
            plan = causal(plan)
        if plan.mask is not mask:
            raise ScheduleError(f"schedule '{self.name}' wrote a plan with a {plan.mask.value} mask, not {mask.value}")
        return replace(plan, wide=wide)


_registered: dict[str, Algorithm] = {}


def registered() -> Mapping[str, Algorithm]:
    """All algorithms by name, in alphabetical order."""
    return MappingProxyType(dict(sorted(_registered.items())))


_Write = TypeVar("_Write", bound=Callable[..., Schedule])


def algorithm(
    *,
    masks: Iterable[Mask] = Mask,
    cuts_heads: bool = False,
    inside_nodes: bool = False,
    across_nodes: bool = False,
    many_ranks: bool = False,
    worth: Callable[[int, int], Iterable[str]] = _plain,
    guess: Guess | None = None,
    published: Published | None = None,
    look: Look | None = None,
) -> Callable[[_Write], _Write]:
    """Register a function that writes plans, under its own name; the arguments are the traits of :class:`Algorithm`.

    Keyword-only parameters of the function are its options: numbers, except where the default is a text. Every schedule
    has the option ``wide`` besides.

    Raises:
        ValueError: Traits contradict each other, or another algorithm has a trait that only one can have.
    """

    def register(write: _Write) -> _Write:
        parameters = inspect.signature(write).parameters.values()
        made = Algorithm(
            name=write.__name__,
            write=write,
            summary=(inspect.getdoc(write) or "").partition("\n")[0],
            options=MappingProxyType(
                {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | _EVERY_OPTION
            ),
            masks=frozenset(masks),
            cuts_heads=cuts_heads,
            inside_nodes=inside_nodes,
            across_nodes=across_nodes,
            many_ranks=many_ranks,
            worth=worth,
            guess=guess,
            published=published,
            look=look,
        )
        _check(made)
        _registered[made.name] = made
        return write

    return register


def _check(made: Algorithm) -> None:
    others = _registered.values()
    needed = ["chunks"] * made.inside_nodes + ["inside", "nodes"] * made.across_nodes
    for wrong, problem in (
        (not made.masks, "is for no mask"),
        (made.name in _registered, "is there already"),
        (any(option not in made.options for option in needed), f"needs the options {' and '.join(needed)}"),
        (made.inside_nodes and Mask.FULL not in made.masks, "cannot run inside nodes, where plans have a full mask"),
        (made.across_nodes and any(other.across_nodes for other in others), "is not the only one across nodes"),
        (
            made.published is not None and any(other.published is made.published for other in others),
            f"is not the only one that is published as {made.published}",
        ),
    ):
        if wrong:
            raise ValueError(f"schedule '{made.name}' {problem}")
