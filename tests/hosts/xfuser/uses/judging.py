"""How a use went on all ranks together: right, refused, or amiss."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tests.hosts.xfuser.uses.harness import EFFECT, Expected, Trial, Use

__all__ = ["Kind", "Outcome", "forgiven", "judge"]

_FEW = 3.0
OFF = "off by"


class Kind(Enum):
    """How a use went."""

    RIGHT = "right"
    REFUSED = "refused"
    ABSENT = "one process does not do this"
    WRONG = "WRONG"
    CRASH = "CRASH"


@dataclass(frozen=True)
class Outcome:
    """How a use went on all ranks.

    Attributes:
        kind: In a word.
        error: Largest difference of any rank.
        single: What :func:`rounding` found in one process, where the difference is no larger than a few times that.
        text: The refusal, or what is amiss.
    """

    kind: Kind
    error: float = 0.0
    text: str = ""
    single: float | None = None


def forgiven(outcome: Outcome, single: float) -> Outcome:
    """The outcome, right where its error is a few times what another kernel changes in one process.

    Args:
        outcome: One that is wrong by its error alone.
        single: What :func:`rounding` found.
    """
    if outcome.error <= _FEW * single:
        return Outcome(Kind.RIGHT, outcome.error, single=single)
    return outcome


def judge(use: Use, trials: list[Trial]) -> Outcome:
    """How a use went on all ranks together."""
    if any(each.absent for each in trials):
        return Outcome(Kind.ABSENT, text=next(each.absent for each in trials if each.absent))
    if use.raising:
        return _judge_own_error(use, trials)
    if any(each.raised[0] for each in trials):
        return _judge_refusal(use, trials)
    error, effect = max(each.error or 0.0 for each in trials), trials[0].effect
    differs = next((each.differs for each in trials if each.differs), "")
    if differs:
        return Outcome(Kind.WRONG, error, differs)
    allowed = 2 * effect if use.expected is Expected.ROUNDED else use.tolerance
    if error > allowed:
        alike = len({each.digest for each in trials}) == 1
        if use.expected is Expected.ALIKE and alike:
            return Outcome(Kind.RIGHT, 0.0, "alike")
        return Outcome(Kind.WRONG, error, f"{OFF} {error:.1e} on {[f'{each.error or 0:.1e}' for each in trials]}")
    if use.changes and effect < EFFECT:
        return Outcome(Kind.ABSENT, text="no effect in one process either")
    if use.expected is Expected.REFUSED:
        return Outcome(Kind.WRONG, error, "ranks that differ were not refused")
    return Outcome(Kind.RIGHT, error)


def _judge_own_error(use: Use, trials: list[Trial]) -> Outcome:
    """Whoever has an error of the user's own raises it; the others are told whose it was."""
    for rank, each in enumerate(trials):
        if rank in use.raising and not (each.refusal or each.raised[0] == use.own):
            return Outcome(Kind.CRASH, text=f"rank {rank} raised {each.raised} in place of its own error\n{each.trace}")
        if rank not in use.raising and not (
            each.refusal and any(f"rank {other}" in each.raised[1] for other in use.raising)
        ):
            return Outcome(Kind.CRASH, text=f"rank {rank} was told {each.raised}, not who raised\n{each.trace}")
    said = next((each.raised[1] for rank, each in enumerate(trials) if rank not in use.raising), "")
    return Outcome(Kind.REFUSED, text=" ".join(said.split()) or "the error of the user's own, on every rank")


def _judge_refusal(use: Use, trials: list[Trial]) -> Outcome:
    said = [f"rank {rank}: {': '.join(each.raised) or 'returned'}" for rank, each in enumerate(trials)]
    faults = []
    if not all(each.refusal for each in trials):
        faults.append("not refused on every rank")
    elif len({each.raised for each in trials}) > 1:
        faults.append("not the same sentence")
    else:
        message = trials[0].raised[1]
        if "\n" in message:
            faults.append("more than one line")
        if not re.search(r"\b(use|call|pass|leave|set|load|remove|do|make|give|start|put)\b", message, re.IGNORECASE):
            faults.append("nothing said to do instead")
        faults += [f"does not say {word!r}" for word in use.names if word not in message]
        if not use.late and any(each.forwards for each in trials):
            faults.append(f"after {max(each.forwards for each in trials)} forward passes")
        if use.expected is Expected.RIGHT:
            faults.append("has to be right")
    if faults:
        traces = "\n".join(dict.fromkeys(each.trace for each in trials if not each.refusal))
        return Outcome(Kind.CRASH, text=f"{'; '.join(faults)}: " + " | ".join(said) + "\n" + traces)
    return Outcome(Kind.REFUSED, text=trials[0].raised[1])
