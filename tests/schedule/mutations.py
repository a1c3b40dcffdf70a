"""Schedules with something changed in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tokenring_xdit.schedule import (
    Action,
    Attend,
    Exchange,
    Merge,
    Piece,
    Schedule,
    Transfer,
    kv_block,
    o_block,
)


def edited(schedule: Schedule, rank: int, edit: Callable[[list[Action]], Any]) -> Schedule:
    """A copy with the program of one rank changed in place by ``edit``."""
    programs = list(schedule.programs)
    program = list(programs[rank])
    edit(program)
    programs[rank] = tuple(program)
    return replace(schedule, programs=tuple(programs))


def mutate(program: list[Action], change: str, at: int, other: int, peer: int) -> None:
    action = program[at]
    if change == "drop":
        program.pop(at)
    elif change == "repeat":
        program.insert(at, action)
    elif change == "swap":
        program[at], program[other] = program[other], program[at]
    elif change == "move":
        program.insert(other, program.pop(at))
    elif isinstance(action, Exchange):
        program[at] = replace(
            action, sends=tuple(recut(t, other) if change == "recut" else replace(t, peer=peer) for t in action.sends)
        )
    elif isinstance(action, Attend):
        if change == "recut":
            program[at] = replace(action, kv=replace(action.kv, tokens=Piece(other % 2, 2)))
        else:
            program[at] = replace(action, kv=kv_block(peer))
    else:
        program[at] = Merge(o_block(action.partial.owner, peer))


def recut(transfer: Transfer, piece: int) -> Transfer:
    """The same block in another piece of its tokens."""
    count = transfer.block.tokens.count
    return replace(transfer, block=replace(transfer.block, tokens=Piece(piece % count, count)))
