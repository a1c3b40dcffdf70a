"""Who holds which keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.planning.pairs import plan_pairs
from tokenring_xdit.planning.placement import BLOCK, Placement

turns = st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=12)


@given(st.integers(1, 9), turns)
def test_every_token_has_one_holder_and_shares_stay_even(ranks: int, turns: list[tuple[bool, int]]) -> None:
    placement = Placement(ranks)
    for sharded, tokens in turns:
        spans = placement.split(tokens) if sharded else placement.deal(tokens)
        assert [span.start for span in spans] == [placement.length, *(span.stop for span in spans[:-1])]
        placement = placement.plus(spans)
    held = [placement.count(rank) for rank in range(ranks)]
    assert sum(held) == placement.length == sum(tokens for _, tokens in turns)
    assert max(held) <= placement.length / ranks + BLOCK
    places = sorted(place for rank in range(ranks) for piece in placement.pieces(rank) for place in range(*piece))
    assert places == list(range(placement.length))


@given(st.integers(1, 6), turns, st.integers(0, 300))
def test_cropping_keeps_the_beginning(ranks: int, turns: list[tuple[bool, int]], length: int) -> None:
    placement = Placement(ranks)
    for sharded, tokens in turns:
        placement = placement.plus(placement.split(tokens) if sharded else placement.deal(tokens))
    cropped = placement.cropped(length)
    assert cropped.length == min(length, placement.length)
    for rank in range(ranks):
        assert cropped.count(rank) == placement.count(rank, 0, length)


@given(st.integers(1, 5), turns, st.integers(1, 60), st.none() | st.integers(1, 70))
def test_a_plan_brings_each_query_its_keys(
    ranks: int, turns: list[tuple[bool, int]], new: int, window: int | None
) -> None:
    placement = Placement(ranks)
    for sharded, tokens in turns:
        placement = placement.plus(placement.split(tokens) if sharded else placement.deal(tokens))
    spans = placement.split(new)
    queries = tuple((span.start, span.stop) for span in spans)
    placement = placement.plus(spans)
    plan = plan_pairs(placement, queries, window)
    for rank, (start, stop) in enumerate(queries):
        brought = {place for part in plan.seen[rank] for piece in part.pieces for place in range(*piece)}
        needed = {
            key
            for query in range(start, stop)
            for key in range(0 if window is None else max(0, query - window + 1), query + 1)
        }
        assert brought == needed
        for other, part in enumerate(plan.seen[rank]):
            whole = [place for piece in placement.pieces(other) for place in range(*piece)]
            asked = [place for piece in part.pieces for place in range(*piece)]
            assert whole[part.offset : part.offset + part.tokens] == asked
