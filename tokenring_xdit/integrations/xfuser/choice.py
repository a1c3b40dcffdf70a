"""Whether, and how, TokenRing was chosen for the running xfuser engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenring_xdit.errors import ConfigurationError, ScheduleError, UnsupportedError, nearest
from tokenring_xdit.schedule import BUILDERS

__all__ = ["DEFAULT_SCHEDULE", "TokenRingChoice", "attach", "choice_of", "current_choice", "make_choice"]

DEFAULT_SCHEDULE = "token_ring"

_ATTRIBUTE = "tokenring"
"""Name under which the choice rides on xfuser's ``SequenceParallelConfig``."""


unattached: list[str] = []
"""Modules of xfuser that could not be changed: those of another release, where TokenRing attached itself unasked."""


@dataclass(frozen=True)
class TokenRingChoice:
    """TokenRing takes the place of Ring.

    Attributes:
        degree: Ranks that TokenRing shards the sequence over, more than one.
        schedule: Name of the schedule that they run.
    """

    degree: int
    schedule: str = DEFAULT_SCHEDULE


def make_choice(tokenring_degree: int | None, schedule: str | None, ring_degree: int | None) -> TokenRingChoice | None:
    """Check what was asked for.

    Args:
        tokenring_degree: Ranks for TokenRing; ``None`` or 1 leaves xfuser as it is.
        schedule: Name of a schedule; ``None`` is :data:`DEFAULT_SCHEDULE`.
        ring_degree: xfuser's own ring degree.

    Raises:
        ConfigurationError: The degree is not a positive number.
        ScheduleError: There is no such schedule.
        UnsupportedError: TokenRing inside Ring was asked for, or this xfuser is not the one it was written for.
    """
    degree = 1 if tokenring_degree is None else tokenring_degree
    if degree < 1:
        raise ConfigurationError(f"tokenring_degree is {degree}; it has to be at least 1")
    name = DEFAULT_SCHEDULE if schedule is None else schedule
    if name not in BUILDERS:
        raise ScheduleError(f"there is no schedule '{name}'. {nearest(name, BUILDERS)}")
    if degree == 1:
        return None
    if unattached:
        raise UnsupportedError(
            f"tokenring_degree={degree} was asked for, but TokenRing could not attach itself to "
            f"{', '.join(unattached)} of the installed xfuser (see the log). Use xfuser 0.7.0, or another strategy"
        )
    if (ring_degree or 1) > 1:
        raise UnsupportedError(
            f"tokenring_degree={degree} with ring_degree={ring_degree} would be TokenRing inside Ring, which is "
            f"not built yet: use tokenring_degree={degree * (ring_degree or 1)} with ring_degree=1, or "
            "combine TokenRing with ulysses_degree"
        )
    return TokenRingChoice(degree, name)


def attach(sp_config: Any, choice: TokenRingChoice | None) -> None:
    """Let the choice ride on the config object that xfuser's runtime state keeps."""
    setattr(sp_config, _ATTRIBUTE, choice)


def choice_of(parallel_config: Any) -> TokenRingChoice | None:
    """The choice that rides on an engine's config; ``None`` where xfuser was left as it is."""
    return getattr(parallel_config.sp_config, _ATTRIBUTE, None)


def current_choice() -> TokenRingChoice | None:
    """The choice of the running engine."""
    from xfuser.core.distributed.runtime_state import get_runtime_state

    return choice_of(get_runtime_state().parallel_config)
