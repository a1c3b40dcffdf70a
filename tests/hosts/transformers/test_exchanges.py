"""Keys and queries that go straight to other ranks: proved, run in any order of events, and damaged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.lower.test_proof import damage
from tests.support.memory import Choose, Shards, at_random, ranks_first, transfers_first
from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.transport import MemoryNetwork, MemoryTransport
from tokenring_xdit.errors import VerificationError
from tokenring_xdit.hosts.transformers.exchanges import PlacedAttention
from tokenring_xdit.hosts.transformers.kernels import Scores
from tokenring_xdit.planning.pairs import Plan, plan_pairs
from tokenring_xdit.planning.placement import Placement
from tokenring_xdit.planning.straight import Way, proved_straight
from tokenring_xdit.schedule.lower import prove
from tokenring_xdit.schedule.lower.program import RankProgram
from tokenring_xdit.schedule.problem import Problem

WAYS = [Way.KEYS, Way.QUERIES]
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


class Turn:
    """New tokens behind others, of which each rank has some.

    Args:
        ranks: How many there are.
        before: Tokens of earlier calls, each with whether its ranks shared them evenly or block by block.
        new: Tokens of this call.
        window: How many keys a query sees; ``None`` for all.
        forgotten: Tokens at the beginning whose keys nobody holds any more.
    """

    def __init__(
        self, ranks: int, before: Sequence[tuple[bool, int]], new: int, window: int | None = None, forgotten: int = 0
    ) -> None:
        placement = Placement(ranks)
        for sharded, tokens in before:
            placement = placement.plus(placement.split(tokens) if sharded else placement.deal(tokens))
        self.past, self.window, self.first = placement.length, window, min(forgotten, placement.length)
        spans = placement.split(new)
        self.placement = placement.plus(spans)
        self.plan: Plan = plan_pairs(self.placement, tuple((s.start, s.stop) for s in spans), window, self.first)
        lengths = tuple(span.stop - span.start for span in spans)
        self.problem = Problem(lengths, self.plan.held, HEADS, KV_HEADS, HEAD_DIM)

    def programs(self, way: Way, *, in_order: bool = False) -> tuple[RankProgram, ...]:
        """What the ranks do, proved."""
        return proved_straight(way, self.plan, self.problem, in_order=in_order)

    def asked(self, rank: int, owner: int) -> tuple[int, int, bool]:
        """Which keys of another rank a rank's queries are to attend."""
        first, tokens, _ = self.plan.seen[rank][owner]
        return first, first + tokens, False

    def error(self, programs: Sequence[RankProgram], choose: Choose, *, in_order: bool = False) -> float:
        """How far output and log-sum-exp of all ranks are from softmax in fp64."""
        length = self.placement.length
        whole = Shards.of(Problem((length - self.past,), (length,), HEADS, KV_HEADS, HEAD_DIM))
        queries, keys = torch.arange(self.past, length)[:, None], torch.arange(length)
        visible = (keys <= queries) & (keys >= self.first)
        if self.window is not None:
            visible &= keys > queries - self.window
        expected = softmax_attention(whole.q, whole.k, whole.v, visible=visible)
        qs = whole.q.split(self.problem.q_lengths, 2)

        def call(transport: MemoryTransport) -> tuple[torch.Tensor, torch.Tensor]:
            places = [at for piece in self.placement.pieces(transport.rank, self.first) for at in range(*piece)]
            attention = PlacedAttention(self.plan, Scores(HEAD_DIM**-0.5, self.window), None)
            k, v = whole.k[:, :, places], whole.v[:, :, places]
            return RankRun("straight", programs, transport, attention, qs[transport.rank], k, v).run()

        found = MemoryNetwork(self.problem.ranks, choose, in_order=in_order).run(call)
        outs, lses = (torch.cat(parts, 2) for parts in zip(*found, strict=True))
        return max(relative_error(one, other) for one, other in zip((outs, lses), expected, strict=True))


turns = st.builds(
    Turn,
    st.integers(1, 6),
    st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=3),
    st.integers(1, 40),
    st.none() | st.integers(1, 60),
)


@settings(max_examples=60, deadline=None)
@given(turns, st.sampled_from(WAYS), st.booleans(), st.integers(0, 1000))
def test_every_turn_is_exact_in_any_order_of_events(turn: Turn, way: Way, in_order: bool, seed: int) -> None:
    assert turn.error(turn.programs(way, in_order=in_order), at_random(seed), in_order=in_order) <= 1e-5


@pytest.mark.parametrize("choose", [ranks_first, transfers_first])
@pytest.mark.parametrize("way", WAYS)
def test_eight_ranks_of_which_some_have_forgotten_keys(way: Way, choose: Choose) -> None:
    turn = Turn(8, [(True, 200), (False, 40)], 50, window=90, forgotten=151)
    for in_order in (False, True):
        assert turn.error(turn.programs(way, in_order=in_order), choose, in_order=in_order) <= 1e-5


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(WAYS), st.booleans(), st.integers(0, 4),
    st.sampled_from(["drop", "repeat", "swap", "move", "edit"]), st.data(),
)  # fmt: skip
def test_damage_is_refused_or_computes_right(
    way: Way, in_order: bool, rank: int, change: str, data: st.DataObject
) -> None:
    turn = Turn(5, [(True, 64), (False, 40)], 23, window=data.draw(st.sampled_from([None, 31])))
    damaged = damage(turn.programs(way, in_order=in_order), rank, change, data)
    try:
        prove("damaged", damaged, turn.problem, mask=turn.asked, in_order=in_order)
    except VerificationError:
        return
    for seed in range(2):
        assert turn.error(damaged, at_random(seed), in_order=in_order) <= 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_nothing_can_be_left_out(way: Way) -> None:
    turn = Turn(4, [(True, 64)], 23)
    programs = turn.programs(way)
    for rank, program in enumerate(programs):
        for at in range(len(program.steps)):
            left = program._replace(steps=program.steps[:at] + program.steps[at + 1 :])
            with pytest.raises(VerificationError):
                prove(
                    "damaged",
                    [left if number == rank else other for number, other in enumerate(programs)],
                    turn.problem,
                    mask=turn.asked,
                    in_order=False,
                )
