"""What programs tell in advance: keys that are attended together are all attended, and are here by then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.schedules import names
from tokenring_xdit.schedule import Attend, Block, Mask, build, kv_block, q_block
from tokenring_xdit.schedule.foresight import meetings


@given(st.data())
def test_meetings_are_what_the_plan_attends(data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 9))
    mask = data.draw(st.sampled_from(Mask))
    name = data.draw(st.sampled_from(names(mask, any_ranks=True)))
    chunks = data.draw(st.integers(1, 3))
    for program in build(f"{name}:chunks={chunks}", ranks, heads=ranks, mask=mask).schedule.programs:
        carried_out: list[Attend] = []
        met: set[Block] = set()
        joined: dict[tuple[Block, ...], list[bool]] = {}
        for index, meeting in sorted(meetings(program).items()):
            actions = program[index + 1 - len(meeting.attends) : index + 1]
            assert actions == meeting.attends  # in a row, and no exchange among them
            assert meeting.keys == tuple(attend.narrowed[1] for attend in actions)
            if len(actions) > 1:
                assert len({attend.narrowed[0] for attend in meeting.attends}) == 1
                assert {attend.mask for attend in meeting.attends} == {Mask.FULL}
                assert met.issuperset(meeting.keys)
                joined.setdefault(meeting.keys, []).append(meeting.last)
            met.update(meeting.keys)
            carried_out += meeting.attends
        assert carried_out == [action for action in program if isinstance(action, Attend)]
        assert all(lasts == [False] * (len(lasts) - 1) + [True] and len(lasts) > 1 for lasts in joined.values())


@pytest.mark.parametrize(
    ("name", "attends", "calls"),
    [("heads", 64, 22), ("heads:peers=2", 64, 40), ("token_ring", 8, 8), ("direct:chunks=4", 30, 30)],
)
def test_calls_of_the_kernel(name: str, attends: int, calls: int) -> None:
    program = build(name, 8).schedule.programs[3]
    assert sum(isinstance(action, Attend) for action in program) == attends
    assert len(meetings(program)) == calls


def test_keys_wait_for_none_that_has_not_been_met() -> None:
    """Twice the same two keys, first as they come."""
    first, second = (tuple(Attend(q_block(q), kv_block(kv)) for kv in (1, 2)) for q in (0, 1))
    again = tuple(Attend(q_block(2), kv_block(kv)) for kv in (1, 2))
    found = meetings((*first, *second, *again))
    assert {index: len(meeting.attends) for index, meeting in found.items()} == {0: 1, 1: 1, 3: 2, 5: 2}
    assert str(found[3]) == "Q[1] to KV[1], KV[2]"
