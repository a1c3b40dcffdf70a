"""Whether, and how, TokenRing was chosen for the running xfuser engine."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.parallel import ParallelDims

__all__ = [
    "attach",
    "choice_of",
    "current_choice",
    "exactness_promised",
    "make_choice",
    "promise_exactness",
    "refuse_unattached",
    "tokenring_degree_of",
]

_ATTRIBUTE = "tokenring"
"""Name under which the choice rides on xfuser's ``SequenceParallelConfig``."""

_PROMISE = "tokenring_exact"
"""The same for the promise that the engine computes what one process does."""


def refuse_unattached(degree: int) -> None:
    """Refuse TokenRing where it could not attach itself to xfuser.

    Args:
        degree: The TokenRing degree; 1 leaves xfuser as it is.

    Raises:
        UnsupportedError: This xfuser is not the one that TokenRing was written for.
    """
    unattached = INSTALLATION.unattached
    if degree > 1 and unattached:
        raise UnsupportedError(
            f"tokenring_degree={degree} was asked for, but TokenRing could not attach itself to "
            f"{', '.join(unattached)} of the installed xfuser (see the log). Use xfuser 0.7.0, or another strategy"
        )


def make_choice(tokenring_degree: int | None, schedule: str | None, ring_degree: int | None) -> ParallelDims | None:
    """How the ranks of TokenRing are divided, from what xfuser's arguments say, checked.

    Args:
        tokenring_degree: Ranks for TokenRing; ``None`` or 1 leaves xfuser as it is.
        schedule: Name of a schedule; ``None`` is :data:`~tokenring_xdit.defaults.DEFAULT_SCHEDULE`.
        ring_degree: xfuser's own ring degree: nodes, each of ``tokenring_degree`` ranks, with a ring of keys
            and values between them.

    Returns:
        That, without Ulysses, which is xfuser's to know; ``None`` where xfuser is left as it is.

    Raises:
        ConfigurationError: A degree is not a positive number.
        ScheduleError: There is no such schedule, or it is not defined for this number of ranks or a full mask, which
            every model has that xfuser shards.
        UnsupportedError: This xfuser is not the one that TokenRing was written for.
    """
    degree = 1 if tokenring_degree is None else tokenring_degree
    nodes = 1 if ring_degree is None or degree == 1 else ring_degree  # without TokenRing it is all upstream's
    refuse_unattached(degree)
    dims = ParallelDims(tokenring=degree, ring=nodes, schedule=DEFAULT_SCHEDULE if schedule is None else schedule)
    return None if degree == 1 else dims


def attach(sp_config: Any, choice: ParallelDims | None) -> None:
    """Let the choice ride on the config object that xfuser's runtime state keeps."""
    setattr(sp_config, _ATTRIBUTE, choice)


def tokenring_degree_of(arguments: Any) -> int:
    """The TokenRing degree in arguments of xfuser's; 1 in those that another program made, which know of none."""
    return getattr(arguments, "tokenring_degree", None) or 1


def choice_of(parallel_config: Any) -> ParallelDims | None:
    """The choice that rides on an engine's config; ``None`` where xfuser was left as it is."""
    return getattr(parallel_config.sp_config, _ATTRIBUTE, None)


def current_choice() -> ParallelDims | None:
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
