from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.interpreter import asked_once, meetings
from tests.support.schedules import EVERY_MASK, INSIDE, names
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import (
    Attend,
    Channel,
    Exchange,
    Kind,
    Mask,
    Merge,
    Piece,
    Program,
    build,
    kv_block,
)

SPELLINGS = [
    *names(any_ranks=True),
    "hierarchical:nodes=1",
    "bidirectional:chunks=3",
    "bidirectional_q:chunks=2",
    "direct:chunks=4",
    "direct_kv:chunks=3",
    "heads:chunks=2",
    "heads:peers=1",
    "mesh:chunks=2",
    "ring:chunks=2",
    "token_ring:chunks=4",
]


@st.composite
def requests(draw: st.DrawFn, most: int) -> tuple[str, int, Mask, int]:
    """A schedule with options, a number of ranks and a mask that it works for, and a number of heads."""
    (name, mask), chunks = draw(st.sampled_from(EVERY_MASK)), draw(st.integers(1, 8))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, most // 4))
    options = {"chunks": str(chunks)}
    if name == "hierarchical":
        options |= {"nodes": str(rows), "inside": draw(st.sampled_from(INSIDE))}
    elif name == "mesh":
        options["rows"] = str(rows)
    # any rows and columns, prime ones included
    world_size = rows * columns if name in {"hierarchical", "mesh"} else draw(st.integers(1, most))
    spelling = f"{name}:{','.join(f'{option}={value}' for option, value in options.items())}"
    return spelling, world_size, mask, draw(st.integers(1, 8))


@pytest.mark.parametrize(
    ("world_size", "mask"),
    [*((n, Mask.FULL) for n in range(1, 17)), *((n, Mask.CAUSAL) for n in (1, 2, 3, 4, 5, 6, 7, 8, 12, 13))],
)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_builder_is_proved_and_meets_every_pair_once(name: str, world_size: int, mask: Mask) -> None:
    heads = 5 + world_size // 2 % 2
    schedule = build(name, world_size, mask, heads).schedule
    assert (schedule.world_size, schedule.mask, schedule.name) == (world_size, mask, name)
    tokens = [1 + (3 * rank + world_size) % 4 for rank in range(world_size)]  # shards of 1 to 4 tokens
    assert np.array_equal(meetings(schedule, tokens, heads), asked_once(mask, tokens, heads))


@given(requests(most=12), st.data())
def test_options_go_together(request_: tuple[str, int, Mask, int], data: st.DataObject) -> None:
    name, world_size, mask, heads = request_
    tokens = [data.draw(st.integers(0, 5)) for _ in range(world_size)]
    schedule = build(name, world_size, mask, heads).schedule
    assert np.array_equal(meetings(schedule, tokens, heads), asked_once(mask, tokens, heads))


@settings(max_examples=20)
@given(requests(most=32))
def test_larger_worlds_are_proved_too(request_: tuple[str, int, Mask, int]) -> None:
    name, world_size, mask, heads = request_
    assert build(name, world_size, mask, heads).schedule.mask is mask


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_rank_is_plain_attention(name: str) -> None:
    (program,) = build(name, 1).schedule.programs
    assert [type(action) for action in program] == [Attend]


def sent(program: Program) -> Counter[Kind]:
    """Blocks that a rank sends, by kind."""
    found: Counter[Kind] = Counter()
    for t in (t for a in program if isinstance(a, Exchange) for t in a.sends):
        found[t.block.kind] += Fraction(1, t.block.tokens.count * t.block.heads.count)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(("heads", "chunks"), [(5, 1), (8, 3)])
@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 6, 8, 12, 13, 16])
def test_traffic_is_what_the_papers_say(world_size: int, heads: int, chunks: int) -> None:
    """N - 1 K/V blocks, or N - 1 Q blocks and N - 1 partials back, however they go; fewer on a grid."""
    keys, queries = {Kind.KV: world_size - 1}, {Kind.Q: world_size - 1, Kind.O: world_size - 1}
    expected = {
        "ring": keys,
        "direct_kv": keys,
        "bidirectional": keys,
        "token_ring": queries,
        "direct": queries,
        "bidirectional_q": queries,
    }
    for name, blocks in expected.items():
        programs = build(f"{name}:chunks={chunks}", world_size, heads=heads).schedule.programs
        assert [sent(p) for p in programs] == [blocks] * world_size, name
    # the grid nearest to a square, here found by its circumference
    rows = min((a for a in range(1, world_size + 1) if world_size % a == 0), key=lambda a: (a + world_size // a, a))
    grid = Counter({Kind.Q: rows - 1, Kind.O: rows - 1, Kind.KV: world_size // rows - 1})
    programs = build(f"mesh:chunks={chunks}", world_size).schedule.programs
    assert [+sent(p) for p in programs] == [+grid] * world_size


@pytest.mark.parametrize("inside", INSIDE)
def test_between_nodes_each_rank_sends_one_block_of_keys_a_round(inside: str) -> None:
    """Queries stay in their node, and pass there once, whatever the number of nodes."""
    nodes, size = 3, 4
    for rank, program in enumerate(build(f"hierarchical:nodes={nodes},inside={inside}", 12).schedule.programs):
        channels: Counter[Channel] = Counter()
        for action in (a for a in program if isinstance(a, Exchange)):
            for t in action.sends:
                far = t.peer // size != rank // size
                assert far is (action.channel is Channel.NODES)
                channels[action.channel] += Fraction(1, t.block.heads.count)  # type: ignore[assignment]
        passes_keys = inside in {"ring", "direct_kv", "bidirectional"}
        near = {Channel.KV: nodes * (size - 1)} if passes_keys else {Channel.Q: size - 1, Channel.O: size - 1}
        assert channels == {Channel.NODES: nodes - 1, **near}


@pytest.mark.parametrize("world_size", range(2, 17))
def test_token_ring_sends_queries_forward_and_outputs_straight_home_from_step_one(world_size: int) -> None:
    for rank, program in enumerate(build("token_ring", world_size).schedule.programs):
        attended = 0
        for action in program:
            if isinstance(action, Attend):
                attended += 1
            elif isinstance(action, Exchange):
                for t in action.sends:
                    if action.channel is Channel.Q:
                        assert t.peer == (rank + 1) % world_size
                    else:
                        assert t.peer == t.block.owner == (rank - (attended - 1)) % world_size
        first_return = next(i for i, a in enumerate(program) if isinstance(a, Exchange) and a.channel is Channel.O)
        assert sum(isinstance(a, Attend) for a in program[:first_return]) == 2  # its own block, then the first guest


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("world_size", range(3, 17))
def test_token_ring_keeps_a_bounded_number_of_returns_in_flight(world_size: int, chunks: int) -> None:
    for program in build(f"token_ring:chunks={chunks}", world_size).schedule.programs:
        waiting = most = 0
        for action in program:
            if isinstance(action, Exchange) and action.channel is Channel.O:
                waiting += len(action.recvs)
            waiting -= isinstance(action, Merge)
            most = max(most, waiting)
        assert most <= 3 * chunks


@pytest.mark.parametrize("name", ["direct", "direct_kv"])
@pytest.mark.parametrize("chunks", [1, 4])
def test_direct_posts_everything_on_every_link_before_it_attends(name: str, chunks: int) -> None:
    for rank, program in enumerate(build(f"{name}:chunks={chunks}", 5).schedule.programs):
        posted = program[:chunks]
        peers = set(range(5)) - {rank}
        for index, action in enumerate(posted):
            assert isinstance(action, Exchange)
            assert {t.peer for t in action.sends} == {t.peer for t in action.recvs} == peers
            assert all(t.block.tokens.index == index for t in action.sends)
        first_guests = [a for a in program if isinstance(a, Attend) and {a.q.owner, a.kv.owner} != {rank}][:4]
        assert {a.q.owner + a.kv.owner - rank for a in first_guests} == peers
        assert {(a.q if name == "direct" else a.kv).tokens.index for a in first_guests} == {0}


def test_direct_in_pieces_has_work_left_while_the_last_return_comes() -> None:
    for rank, program in enumerate(build("direct:chunks=4", 4).schedule.programs):
        last_return = max(i for i, a in enumerate(program) if isinstance(a, Exchange))
        after = [a for a in program[last_return:] if isinstance(a, Attend)]
        assert [(a.q.owner, a.kv.owner) for a in after] == [(rank, rank)]


@pytest.mark.parametrize("heads", [5, 6])
@pytest.mark.parametrize("name", ["bidirectional", "bidirectional_q"])
def test_both_ways_round_use_neighbours_only_and_no_way_carries_more(name: str, heads: int) -> None:
    for rank, program in enumerate(build(name, 7, heads=heads).schedule.programs):
        ways: Counter[int] = Counter()
        for action in (a for a in program if isinstance(a, Exchange) and a.channel is not Channel.O):
            for t in action.sends:
                ways[(t.peer - rank) % 7] += Fraction(1, t.block.heads.count)  # type: ignore[assignment]
                assert t.block.heads.count == (2 if heads % 2 == 0 else 1)
        assert ways == {1: 3, 6: 3}


@pytest.mark.parametrize(("world_size", "rows"), [(4, 2), (6, 2), (12, 3), (16, 4), (7, 1)])
def test_mesh_chooses_the_grid_that_sends_least(world_size: int, rows: int) -> None:
    chosen, given_ = build("mesh", world_size), build(f"mesh:rows={rows}", world_size)
    assert chosen.schedule.programs == given_.schedule.programs
    assert build("mesh:rows=4", 12).schedule.programs != build("mesh:rows=3", 12).schedule.programs


def test_under_a_causal_mask_nothing_travels_that_nobody_needs() -> None:
    """The first rank's keys go to all, the last rank's to none; for queries it is the other way round."""
    for name, kind, travels in (("direct_kv", Kind.KV, [3, 2, 1, 0]), ("direct", Kind.Q, [0, 1, 2, 3])):
        programs = build(name, 4, Mask.CAUSAL).schedule.programs
        assert [sent(program)[kind] for program in programs] == travels
    token_ring = build("token_ring", 4, Mask.CAUSAL).schedule.programs
    owners = [
        {t.block.owner for a in p if isinstance(a, Exchange) for t in a.sends if a.channel is Channel.Q}
        for p in token_ring
    ]
    assert all(0 not in travelling for travelling in owners)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenring", r"no schedule 'tokenring'.*Did you mean 'token_ring'\?"),
        ("direct:chunk=4", r"'direct' has no option 'chunk'\. Known: chunks, wide\. Did you mean 'chunks'\?"),
        ("direct:", r"'direct' has no option ''\. Known: chunks"),
        ("hierarchical:inside=", r"inside= of schedule 'hierarchical' has to be a name"),
        ("dir\x1bect", r"no schedule 'dir\\x1bect'.*Did you mean 'direct'\?"),
        ("bidirectional:heads=4", r"'bidirectional' has no option 'heads'\. Known: chunks"),
        ("direct:chunks", r"write each option once, as chunks=VALUE"),
        ("direct:chunks=2,chunks=3", r"write each option once, as chunks=VALUE"),
        ("direct:chunks=0", r"chunks=0 of schedule 'direct' has to be a whole number from 1 to 64"),
        ("direct:chunks=65", r"from 1 to 64"),
        ("direct:chunks=four", r"from 1 to 64"),
        ("mesh:rows=4097", r"rows=4097 of schedule 'mesh' has to be a whole number from 1 to 4096"),
        ("mesh:rows=3", r"'mesh' with 3 rows works for multiples of 3 ranks, not for 8; .*8 ranks: 1, 2, 4, 8"),
        ("hierarchical:nodes=3", r"over 3 nodes works for multiples of 3 ranks, not for 8; .*8 ranks: 1, 2, 4, 8"),
        ("hierarchical:inside=direkt", r"no inside=direkt.*Did you mean 'direct'\?"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(name: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build(name, 8)


@pytest.mark.parametrize("inside", ["token_ring", "direct"])
def test_keys_of_another_node_are_met_piece_by_piece(inside: str) -> None:
    """Three nodes of two: all queries meet a third of the next node's keys before the rank waits for the next one."""
    program = build(f"hierarchical:inside={inside},nodes=3,chunks=3", 6).schedule.programs[0]
    pieces = [kv_block(4, tokens=Piece(index, 3)) for index in range(3)]
    met = [[at for at, a in enumerate(program) if isinstance(a, Attend) and a.kv == piece] for piece in pieces]
    passed_on = [
        next(at for at, a in enumerate(program) if isinstance(a, Exchange) and piece in [t.block for t in a.sends])
        for piece in pieces
    ]
    assert sorted([at for piece in met for at in piece] + passed_on) == [
        at for index in range(3) for at in (passed_on[index], *met[index])
    ]
    assert [len(piece) for piece in met] == [len(met[0])] * 3
    assert {program[at].q.owner for at in met[0]} == {0, 1}  # type: ignore[union-attr]


def test_a_schedule_has_one_name_however_it_is_spelled() -> None:
    plain = build("hierarchical:nodes=2,inside=token_ring", 8).schedule
    assert plain.name == "hierarchical"
    assert plain == build("hierarchical", 8).schedule
    assert build("hierarchical:nodes=4,chunks=2", 8).schedule.name == "hierarchical:chunks=2,nodes=4"


@pytest.mark.parametrize("world_size", [0, -1])
def test_worlds_without_ranks_are_refused(world_size: int) -> None:
    with pytest.raises(ScheduleError, match="at least one rank"):
        build("ring", world_size)
