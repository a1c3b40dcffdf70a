"""From a proved schedule and shapes to what each rank does: :func:`lower`, in small passes, and :func:`prove`."""

from __future__ import annotations

from functools import lru_cache

from tokenring_xdit.schedule.lower.collectives import recognise
from tokenring_xdit.schedule.lower.concat import concat_keys
from tokenring_xdit.schedule.lower.draft import Draft, resolve
from tokenring_xdit.schedule.lower.in_place import nest, send_rows
from tokenring_xdit.schedule.lower.phases import in_phases
from tokenring_xdit.schedule.lower.place import place
from tokenring_xdit.schedule.lower.prefetch import prefetch
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.lower.proof import prove
from tokenring_xdit.schedule.lower.widen import merge_together, widen, widest_calls
from tokenring_xdit.schedule.plan import Schedule
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.schedule.verify import VerifiedSchedule

__all__ = ["lower", "prove", "proved"]


def lower(schedule: Schedule, problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...]:
    """What each rank does in a call of given shapes.

    Args:
        schedule: A schedule that passed :func:`~tokenring_xdit.schedule.verify`.
        problem: The shapes, for as many ranks.
        in_order: Whether the transport works off the exchanges of a channel one after the other, as NCCL does. Where
            transfers are independent receives are posted early.
    """
    drafts = tuple(resolve(rank, program, problem) for rank, program in enumerate(schedule.programs))
    if not schedule.overlaps:
        return _widest(drafts, problem, in_order=in_order)
    drafts = tuple(map(concat_keys, drafts))
    if schedule.wide > 1:
        drafts = tuple(merge_together(widen(draft, schedule.wide), schedule.wide) for draft in drafts)
    if not in_order:
        drafts = tuple(map(prefetch, drafts))
    return tuple(map(place, drafts))


def _widest(drafts: tuple[Draft, ...], problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...]:
    """One exchange, few calls, one exchange, one merge: nothing overlaps any more, and hardly anything is launched."""
    merges = 1 + max(len(draft.lines) for draft in drafts)  # as many as there are
    wide = [merge_together(widest_calls(draft), merges) for draft in in_phases(drafts, problem)]
    drafts = recognise([nest(draft, problem.ranks) for draft in send_rows(wide)])
    if not in_order:
        drafts = tuple(map(prefetch, drafts))
    return tuple(place(draft)._replace(token_major=True) for draft in drafts)


@lru_cache(maxsize=256)
def proved(verified: VerifiedSchedule, problem: Problem, *, in_order: bool) -> tuple[RankProgram, ...]:
    """:func:`lower`, and the proof of what it makes.

    Raises:
        VerificationError: Naming the rank and the action at fault.
    """
    schedule = verified.schedule
    programs = lower(schedule, problem, in_order=in_order)
    prove(schedule.name, programs, problem, mask=schedule.mask, in_order=in_order)
    return programs
