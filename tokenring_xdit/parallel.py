"""How ranks are divided: checked and described in one place, whatever host library shards the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown
from tokenring_xdit.schedule import Auto, Mask, ScheduleSpec, parse

__all__ = ["GRAPHS_NEED_RANKS", "ParallelDims"]

_DEGREES = ("ulysses", "tokenring", "ring")

_PLANNED_EARLY = 64
"""Plans for more ranks take seconds to make; whether they can be made shows when the ranks start."""

GRAPHS_NEED_RANKS = (
    "cuda_graphs is for ranks that share a transformer, and one rank was asked for: use diffusers alone, with "
    'torch.compile(mode="reduce-overhead")'
)
"""What is said to one rank that was asked for them."""


@dataclass(frozen=True)
class ParallelDims:
    """How ranks are divided. Their number is the product of the degrees.

    Attributes:
        ulysses: Ranks that Ulysses shards the heads over.
        tokenring: Ranks that TokenRing shards the sequence over, those of one node where there are several.
        ring: xfuser's ring degree: alone the ranks of its own Ring; with ``tokenring`` the number of nodes, with a ring
            of keys and values between them.
        schedule: What the TokenRing ranks exchange and when, inside a node where there are several.
        mask: Which keys a query sees.

    Raises:
        ConfigurationError: A degree is not a whole number of at least 1, or does not fit the schedule.
        ScheduleError: There is no such schedule, or it is not defined for this number of ranks or this mask.
    """

    ulysses: int = 1
    tokenring: int = 1
    ring: int = 1
    schedule: str = DEFAULT_SCHEDULE
    mask: Mask = Mask.FULL

    def __post_init__(self) -> None:
        for name in _DEGREES:
            degree = getattr(self, name)
            if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
                raise ConfigurationError(f"{name}_degree is {shown(degree)}; it has to be a whole number of at least 1")
        if not isinstance(self.schedule, str):
            raise ConfigurationError(
                f"schedule is {shown(self.schedule)}; it has to be a name, such as '{DEFAULT_SCHEDULE}'"
            )
        asked = self._asked()
        if self.tokenring > 1:
            chosen = self._over_nodes(asked)
            if isinstance(chosen, ScheduleSpec) and self.sequence_ranks <= _PLANNED_EARLY:
                chosen.plan(self.sequence_ranks, self.mask)  # refuses what it is not defined for, before ranks start

    @property
    def ranks(self) -> int:
        """Ranks that take part."""
        return self.ulysses * self.sequence_ranks

    @property
    def sequence_ranks(self) -> int:
        """Ranks that the sequence is sharded over, beside what Ulysses does: those of all nodes."""
        return self.tokenring * self.ring

    @cached_property
    def sequence_schedule(self) -> str:
        """What these ranks exchange under TokenRing: the schedule inside nodes, and a ring between them."""
        return str(self._over_nodes(self._asked()))

    @property
    def flags(self) -> str:
        """What to tell ``xdit``."""
        degrees = ((name, getattr(self, name)) for name in _DEGREES)
        flags = [f"--{name}_degree {degree}" for name, degree in degrees if degree > 1]
        told = self.tokenring > 1 and self.schedule != DEFAULT_SCHEDULE
        return " ".join([*flags, *([f"--tokenring_schedule {self.schedule}"] if told else [])])

    def refuse_started(self, ranks: int) -> None:
        """Refuse another number of ranks than were started.

        Raises:
            ConfigurationError: They are not as many.
        """
        if ranks == self.ranks:
            return
        ulysses, remedy = "", f"{ranks} as the degree"
        if self.ulysses > 1:
            ulysses, remedy = f" times ulysses_degree={self.ulysses}", f"degrees whose product is {ranks}"
        raise ConfigurationError(
            f"tokenring_degree={self.tokenring}{ulysses} is {self.ranks} ranks, and {ranks} were started: "
            f"use {remedy}, or torchrun --nproc-per-node={self.ranks} on one node"
        )

    def __str__(self) -> str:
        parts = [f"ulysses {self.ulysses}"] if self.ulysses > 1 else []
        if self.tokenring > 1:
            parts.append(f"{self.schedule} {self.tokenring}")
        if self.ring > 1:
            parts.append(f"{'nodes' if self.tokenring > 1 else 'xfuser-ring'} {self.ring}")
        return " x ".join(parts) or "one rank"

    def _asked(self) -> Auto | ScheduleSpec:
        return Auto.parse(self.schedule) or parse(self.schedule)

    def _over_nodes(self, asked: Auto | ScheduleSpec) -> Auto | ScheduleSpec:
        if isinstance(asked, Auto):
            if asked.nodes > 1 and self.ring > 1:
                raise ConfigurationError(
                    f"schedule '{asked}' and ring_degree={self.ring} both say how many nodes there are: leave one of "
                    "them out"
                )
            nodes = max(asked.nodes, self.ring)
            if self.sequence_ranks % nodes:
                raise ConfigurationError(
                    f"schedule '{asked}': {self.sequence_ranks} ranks do not divide by {nodes} nodes"
                )
            return replace(asked, nodes=nodes)
        return asked.over_nodes(self.ring)
