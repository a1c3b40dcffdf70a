"""Whether, and how, TokenRing was chosen for the running xfuser engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.planning import Auto
from tokenring_xdit.schedule import Spelled, parse

__all__ = [
    "TokenRingChoice",
    "attach",
    "choice_of",
    "current_choice",
    "exactness_promised",
    "make_choice",
    "promise_exactness",
    "tokenring_degree_of",
]

_PLANNED_EARLY = 64
"""Plans for more ranks take seconds to make; whether they can be made shows when the ranks start."""

_ATTRIBUTE = "tokenring"
"""Name under which the choice rides on xfuser's ``SequenceParallelConfig``."""

_PROMISE = "tokenring_exact"
"""The same for the promise that the engine computes what one process does."""


unattached: list[str] = []
"""Modules of xfuser that could not be changed: those of another release, where TokenRing attached itself unasked."""


@dataclass(frozen=True)
class TokenRingChoice:
    """TokenRing takes the place of Ring.

    Attributes:
        degree: Ranks that the sequence is sharded over, more than one: those of all nodes.
        schedule: Name of the schedule that they run, with its options.
    """

    degree: int
    schedule: str = DEFAULT_SCHEDULE


def make_choice(tokenring_degree: int | None, schedule: str | None, ring_degree: int | None) -> TokenRingChoice | None:
    """Check what was asked for.

    Args:
        tokenring_degree: Ranks for TokenRing; ``None`` or 1 leaves xfuser as it is.
        schedule: Name of a schedule; ``None`` is :data:`~tokenring_xdit.defaults.DEFAULT_SCHEDULE`.
        ring_degree: xfuser's own ring degree: nodes, each of ``tokenring_degree`` ranks, with a ring of keys
            and values between them.

    Raises:
        ConfigurationError: A degree is not a positive number.
        ScheduleError: There is no such schedule, or it is not defined for this number of ranks.
        UnsupportedError: This xfuser is not the one that TokenRing was written for.
    """
    degree = 1 if tokenring_degree is None else tokenring_degree
    if degree < 1:
        raise ConfigurationError(f"tokenring_degree is {degree}; it has to be at least 1")
    name = DEFAULT_SCHEDULE if schedule is None else schedule
    auto = Auto.parse(name)
    chosen = parse(name) if auto is None else None
    if degree == 1:
        return None
    nodes = 1 if ring_degree is None else ring_degree
    if nodes < 1:
        raise ConfigurationError(f"ring_degree is {nodes}; it has to be at least 1")
    if unattached:
        raise UnsupportedError(
            f"tokenring_degree={degree} was asked for, but TokenRing could not attach itself to "
            f"{', '.join(unattached)} of the installed xfuser (see the log). Use xfuser 0.7.0, or another strategy"
        )
    if chosen is None:
        assert auto is not None
        if auto.nodes > 1 and nodes > 1:
            raise ConfigurationError(
                f"schedule '{auto}' and ring_degree={nodes} both say how many nodes there are: leave one of them out"
            )
        nodes_within = max(auto.nodes, nodes)
        if degree * nodes % nodes_within:
            raise ConfigurationError(f"schedule '{auto}': {degree * nodes} ranks do not divide by {nodes_within} nodes")
        return TokenRingChoice(degree * nodes, str(replace(auto, nodes=nodes_within)))
    if nodes > 1:
        options = {**dict(chosen.options), "nodes": nodes, "inside": chosen.name}
        chosen = parse(str(Spelled("hierarchical", tuple(options.items()))))
    if degree * nodes <= _PLANNED_EARLY:
        chosen.plan(degree * nodes, heads=0)  # refuses what it is not defined for, before anything is started
    return TokenRingChoice(degree * nodes, str(chosen))


def attach(sp_config: Any, choice: TokenRingChoice | None) -> None:
    """Let the choice ride on the config object that xfuser's runtime state keeps."""
    setattr(sp_config, _ATTRIBUTE, choice)


def tokenring_degree_of(arguments: Any) -> int:
    """The TokenRing degree in arguments of xfuser's; 1 in those that another program made, which know of none."""
    return getattr(arguments, "tokenring_degree", None) or 1


def choice_of(parallel_config: Any) -> TokenRingChoice | None:
    """The choice that rides on an engine's config; ``None`` where xfuser was left as it is."""
    return getattr(parallel_config.sp_config, _ATTRIBUTE, None)


def current_choice() -> TokenRingChoice | None:
    """The choice of the running engine."""
    from xfuser.core.distributed.runtime_state import get_runtime_state

    return choice_of(get_runtime_state().parallel_config)


def promise_exactness(sp_config: Any) -> None:
    """Have xfuser's faults repaired in this engine under Ulysses alone, too: ``parallelize`` takes either strategy."""
    setattr(sp_config, _PROMISE, True)


def exactness_promised() -> bool:
    """Whether the running engine repairs xfuser's faults under every strategy."""
    from xfuser.core.distributed import runtime_state

    state = runtime_state._RUNTIME
    return state is not None and getattr(state.parallel_config.sp_config, _PROMISE, False)
