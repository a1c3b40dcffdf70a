"""Prepared programs: what one rank sends is what the other expects, and nothing is used that is gone."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.schedules import names
from tokenring_xdit.attention.agreement import CallSpec, Layout
from tokenring_xdit.attention.program import OWN_KV, OWN_Q, Fold, Join, Meet, Place, Post, Prepared, prepare
from tokenring_xdit.planning import Cost, Problem, of_schedule
from tokenring_xdit.planning.programs import Post as PlannedPost
from tokenring_xdit.planning.programs import Work
from tokenring_xdit.schedule import Activity, Channel, build

BATCH, HEADS, HEAD_DIM = 2, 4, 8


def layout(q_lengths: tuple[int, ...], kv_lengths: tuple[int, ...]) -> Layout:
    spec = CallSpec(
        schedule="",
        plan="",
        mask="full",
        dtype=torch.float32,
        partial_dtype=torch.bfloat16,
        device="cpu",
        batch=BATCH,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=HEAD_DIM,
        scale=None,
        home_length=0,
        q_length=0,
        kv_length=0,
    )
    return Layout(spec, q_lengths, kv_lengths)


def sizes(messages: tuple[tuple[tuple[int, ...], torch.dtype], ...]) -> list[int]:
    return [torch.Size(shape).numel() * dtype.itemsize for shape, dtype in messages]


def sizes_at(place: Place, lengths: Layout, rank: int, held: dict[int, list[int]]) -> list[int]:
    """How many bytes each tensor of a block has, from what is at its place."""
    count = 1 if place.number == OWN_Q else 2
    tokens = {OWN_Q: lengths.q_lengths[rank], OWN_KV: lengths.kv_lengths[rank]}
    if place.cut is not None:
        _, heads, cut = place.cut
        return [(heads.stop - heads.start) * (cut.stop - cut.start) * BATCH * HEAD_DIM * 4] * count
    return held.get(place.number) or [tokens[place.number] * BATCH * HEADS * HEAD_DIM * 4] * count


def sent(post: Post, lengths: Layout, rank: int, held: dict[int, list[int]]) -> list[tuple[int, list[int]]]:
    """To whom, and how many bytes each message has."""
    going = []
    for send in post.sends:
        payload = post.payloads[send.payload]
        size = sizes_at(payload, lengths, rank, held) if isinstance(payload, Place) else [payload.form.size]
        going.append((send.peer, size))
    return going


def check(programs: list[Prepared], lengths: Layout) -> None:
    flows: dict[tuple[int, int, Channel], dict[str, list[list[int]]]] = defaultdict(
        lambda: {"sent": [], "expected": []}
    )
    for rank, program in enumerate(programs):
        held: dict[int, list[int]] = {}
        for _, step, over in program.steps:
            if isinstance(step, Post):
                for receive in step.receives:
                    assert receive.place not in held and min(sizes(receive.messages)) > 0
                    held[receive.place] = sizes(receive.messages)
                    flows[receive.peer, rank, step.channel]["expected"].append(held[receive.place])
                for peer, going in sent(step, lengths, rank, held):
                    flows[rank, peer, step.channel]["sent"].append(going)
                used = [p.number for p in step.payloads if isinstance(p, Place)]
            elif isinstance(step, Join):
                parts = [sizes_at(part, lengths, rank, held) for part in step.parts]
                assert step.place not in held and len(parts) > 1
                held[step.place] = [sum(sizes) for sizes in zip(*parts, strict=True)]
                assert held[step.place] == [torch.Size(step.shape).numel() * 4] * 2
                used = [part.number for part in step.parts]
            elif isinstance(step, Meet):
                used = [step.q.number, step.kv.number]
            else:
                used = [step.place]
            assert set(used) <= {OWN_Q, OWN_KV, *held}
            for place in over:
                del held[place]
        assert not held, "a buffer would not be handed back"
    for flow in flows.values():
        assert flow["sent"] == flow["expected"]


@pytest.mark.parametrize("early", [True, False])
@given(data=st.data())
def test_what_is_sent_is_what_is_expected(early: bool, data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 6))
    tokens = st.integers(0, 12)
    lengths = layout(*(tuple(data.draw(tokens) for _ in range(ranks)) for _ in range(2)))
    name = data.draw(st.sampled_from(names(any_ranks=True)))
    verified = build(f"{name}:chunks={data.draw(st.integers(1, 4))}", ranks, heads=HEADS)
    check([prepare(verified, lengths, rank, early) for rank in range(ranks)], lengths)


def test_the_program_of_one_of_two_ranks() -> None:
    lengths = layout((3, 5), (4, 6))
    program = prepare(build("token_ring", 2), lengths, 0, False)
    kinds = [type(step) for _, step, _ in program.steps]
    assert kinds == [Post, Meet, Meet, Post, Fold]
    _, own, other, _, fold = (step for _, step, _ in program.steps)
    assert isinstance(own, Meet) and isinstance(other, Meet) and isinstance(fold, Fold)
    assert (own.guest, other.guest) == (None, 0)
    assert program.guest_shapes == ((BATCH, HEADS, 5, HEAD_DIM),)
    assert fold.form.shape == (BATCH, HEADS, 3, HEAD_DIM)
    assert fold.part is None


def test_keys_that_many_queries_meet_are_joined_once() -> None:
    program = prepare(build("heads", 4), layout((4, 4, 4, 4), (5, 0, 6, 7)), 0, False)
    joins = [(index, step) for index, (_, step, _) in enumerate(program.steps) if isinstance(step, Join)]
    ((made, join),) = joins
    assert join.shape == (BATCH, 1, 13, HEAD_DIM)
    assert join.what == "KV[3] heads 1/4, KV[2] heads 1/4"  # the other one is empty
    users = [
        i for i, (_, step, _) in enumerate(program.steps) if isinstance(step, Meet) and step.kv.number == join.place
    ]
    assert len(users) == 3 and min(users) == made + 1
    assert [i for i, (_, _, over) in enumerate(program.steps) if join.place in over] == [max(users)]


def test_what_is_empty_is_left_out() -> None:
    lengths = layout((0, 5), (4, 0))
    first, second = (prepare(build("token_ring", 2), lengths, rank, False) for rank in range(2))
    assert [type(step) for _, step, _ in first.steps] == [Post, Meet, Post]
    assert [type(step) for _, step, _ in second.steps] == [Post, Post, Fold]


@given(
    st.integers(2, 5).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)),
    st.sampled_from(
        ["ring", "token_ring", "direct:chunks=3", "bidirectional_q:chunks=2", "mesh", "heads:chunks=3", "heads:peers=1"]
    ),
    st.booleans(),
)
def test_the_planner_counts_what_is_done(lengths: tuple[list[int], list[int]], name: str, early: bool) -> None:
    """Blocks sent, kernels, merges and joins of each rank: empty ones nowhere."""
    agreed = layout(*map(tuple, lengths))
    verified = build(name, len(agreed.q_lengths), heads=HEADS)
    problem = Problem(agreed.q_lengths, agreed.kv_lengths, HEADS, HEADS, HEAD_DIM, BATCH)
    for rank, planned in enumerate(of_schedule(verified.schedule, problem, Cost(1.0, in_order=not early))):
        done = [step for _, step, _ in prepare(verified, agreed, rank, early).steps]
        sends = [send.block for step in done if isinstance(step, Post) for send in step.sends]
        assert [m.what for step in planned if isinstance(step, PlannedPost) for m in step.sends] == sends
        works = Counter(step.activity for step in planned if isinstance(step, Work))
        assert works[Activity.ATTEND] == sum(isinstance(step, Meet) for step in done)
        assert works[Activity.MERGE] == sum(isinstance(step, Fold | Join) for step in done)
