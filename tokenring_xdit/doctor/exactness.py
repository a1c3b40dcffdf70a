"""Has ranks run every schedule, and compares what they compute with softmax in fp64."""

from __future__ import annotations

from collections.abc import Iterator

from tokenring_xdit.doctor.cases import ERROR_LIMITS, CheckupPlan, Step, check_calls, in_words
from tokenring_xdit.doctor.commands import CheckCall
from tokenring_xdit.doctor.pools import Ranks
from tokenring_xdit.doctor.record import ExactnessResult
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.schedule import Mask

__all__ = ["check_schedules", "graded"]

_TIMEOUT = 90.0
"""Seconds for one call, the first connections of the ranks included."""


def check_schedules(plan: CheckupPlan, ranks: Ranks, step: Step) -> Iterator[ExactnessResult]:
    """Compare all schedules, one result a call; what a failure of one keeps from running is not tried.

    Raises:
        LaunchError: A rank failed, and there are no others to go on with.

    Args:
        plan: What the checkup does.
        ranks: Who carries it out.
        step: Told what comes next.
    """
    families = check_calls(plan.ranks, plan.dtypes)
    total, done = sum(map(len, families.values())), 0
    for calls in families.values():
        done += len(calls)
        for index, call in enumerate(calls):
            step(done - len(calls) + index, total, f"{call.schedule}, {_mask(call)}, {in_words(call)}")
            try:
                yield graded(call, ranks.ask(call, _TIMEOUT))
            except LaunchError as error:
                yield _result(call, None, False, _brief(str(error)))
                if ranks.lost is not None:
                    raise
                break


def graded(call: CheckCall, answers: list[float | str]) -> ExactnessResult:
    """What ranks found of a call: the largest error of any, or the first refusal."""
    refused = [answer for answer in answers if isinstance(answer, str)]
    if refused:
        return _result(call, None, False, refused[0])
    error = max(answer for answer in answers if isinstance(answer, float))
    if error == float("inf"):
        return _result(call, None, False, "the output is not a number")
    return _result(call, error, error <= ERROR_LIMITS[call.dtype], "")


def _result(call: CheckCall, error: float | None, exact: bool, said: str) -> ExactnessResult:
    return ExactnessResult(
        schedule=call.schedule,
        mask=_mask(call),
        problem=in_words(call),
        dtype=call.dtype,
        error=error,
        limit=ERROR_LIMITS[call.dtype],
        exact=exact,
        said=said,
    )


def _mask(call: CheckCall) -> str:
    return str((Mask.CAUSAL if call.causal else Mask.FULL).value)


def _brief(text: str) -> str:
    """A message without the lines of a traceback."""
    return text.partition("\n")[0]
