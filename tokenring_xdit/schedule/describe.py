"""A schedule in words: who sends what to whom, and who attends what, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from tokenring_xdit.schedule.plan import Action, Attend, Exchange, Kind, Program, Schedule

__all__ = ["describe", "heading", "traffic"]


def describe(schedule: Schedule) -> str:
    """Lay a schedule out as a table of steps.

    A step of a rank ends with an attention, so what is posted in a step travels while that
    attention, or a later one, computes; the last step is what remains after the last attention.

    Args:
        schedule: Any schedule, proved or not.
    """
    legend = "each line in order; transfers travel while the rank attends"
    lines = [f"{schedule.name}, {heading(schedule)}", traffic(schedule), legend, ""]
    steps = [list(_steps(program)) for program in schedule.programs]
    width = len(f"rank {schedule.world_size - 1}")
    for number in range(max((len(s) for s in steps), default=0)):
        last = all(not any(isinstance(a, Attend) for a in s[number]) for s in steps if number < len(s))
        lines.append("finish" if last else f"step {number}")
        for rank, own in enumerate(steps):
            if number < len(own) and own[number]:
                phrases = ", ".join(phrase for action in own[number] for phrase in _phrases(action))
                lines.append(f"  {f'rank {rank}':<{width}}  {phrases}")
    return "\n".join(lines)


def heading(schedule: Schedule) -> str:
    """For what a schedule is: its ranks and its mask."""
    return f"{schedule.world_size} rank{'s' * (schedule.world_size > 1)}, {schedule.mask.value} mask"


def _steps(program: Program) -> Iterator[list[Action]]:
    step: list[Action] = []
    for action in program:
        step.append(action)
        if isinstance(action, Attend):
            yield step
            step = []
    if step:
        yield step


def _phrases(action: Action) -> Iterator[str]:
    if isinstance(action, Exchange):
        yield from (f"sends {t.block} to {t.peer}" for t in action.sends)
        yield from (f"receives {t.block} from {t.peer}" for t in action.recvs)
    elif isinstance(action, Attend):
        causal = "" if action.mask.value == "full" else f" ({action.mask.value})"
        yield f"attends {action}{causal}"
    else:
        yield f"merges {action.partial}"


def traffic(schedule: Schedule) -> str:
    """Blocks that each rank sends, by kind; one figure where all ranks send alike."""
    parts = []
    for kind in Kind:
        counts = [
            sum(t.block.share for a in program if isinstance(a, Exchange) for t in a.sends if t.block.kind is kind)
            for program in schedule.programs
        ]
        if any(counts):
            span = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
            parts.append(f"{span} {kind.value}")
    return f"each rank sends: {', '.join(parts)} (blocks)" if parts else "nothing is sent"
