"""Whose failure came first, where several ranks have failed or are gone, and what is said of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TypeVar

from tokenring_xdit import errors
from tokenring_xdit.workers.messages import Failed, Gone, RankOutcome, Silent, Stopped

__all__ = ["culprit", "in_words", "is_lost", "is_lost_for_certain"]

_OF_ANOTHER = frozenset(
    {
        errors.AgreementError.__name__,
        errors.CancelledError.__name__,
        errors.CommunicationError.__name__,
        "DistBackendError",
        "DistNetworkError",
        "DistStoreError",
    }
)
"""Errors of ranks that another one has let down."""

_TRANSPORT = ("gloo/transport", "ncclRemoteError", "ncclSystemError")
"""What torch's errors of the same kind have in common, where they are a plain RuntimeError."""

Rank = TypeVar("Rank")


def culprit(outcomes: Mapping[Rank, RankOutcome]) -> Rank:
    """The rank whose failure came first, as far as that can be known.

    Args:
        outcomes: Outcomes of each rank that did not succeed, in the order in which they were known.
    """
    return min(outcomes, key=lambda rank: _severity(outcomes[rank]))


def is_lost(outcome: RankOutcome) -> bool:
    """Whether a rank is no longer there, or does not go on."""
    return isinstance(outcome, (Gone, Stopped))


def is_lost_for_certain(outcome: RankOutcome) -> bool:
    """Whether a rank is lost by itself: it was killed or is stopped, and another's failure is not why."""
    return is_lost(outcome) and _severity(outcome)[0] == 0


def _severity(outcome: RankOutcome) -> tuple[int, float]:
    # A rank that is killed or stopped reports nothing, and the others only that it does not answer. An abort may be a
    # watchdog's, whose rank waited for another.
    if isinstance(outcome, Stopped):
        return 0, -outcome.seconds
    if isinstance(outcome, Gone):
        return (0 if outcome.exit_code < 0 and -outcome.exit_code != signal.SIGABRT else 2), 0.0
    if isinstance(outcome, Failed):
        let_down = outcome.kind in _OF_ANOTHER or any(words in outcome.message for words in _TRANSPORT)
        return (3 if let_down else 1), outcome.time
    return 4, 0.0


def in_words(outcome: RankOutcome, process: int) -> str:
    """What became of a rank, to follow its name.

    Args:
        outcome: Outcome of the rank at fault (:func:`culprit`).
        process: Its process id.
    """
    if isinstance(outcome, Stopped):
        return (
            f"is stopped (process {process}) and was waited for {outcome.seconds:.0f} s: it was sent SIGSTOP, or a "
            "debugger holds it"
        )
    if isinstance(outcome, Silent):
        return outcome.reason
    if isinstance(outcome, Failed):
        return f"failed: {outcome}"
    assert isinstance(outcome, Gone)
    if outcome.reason:
        return outcome.reason
    if outcome.exit_code >= 0:
        return f"ended with exit code {outcome.exit_code} (process {process})"
    name = signal.Signals(-outcome.exit_code).name
    hint = ", as Linux does when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint} (process {process})"
