"""Ranks that settle on moves together, whatever becomes of the graphs of each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.graphs.forms import CallForm
from tokenring_xdit.graphs.ledger import MOST_GRAPHS, GraphMove, GraphReport, Ledger, Proposal, settle

RANKS = 3


@dataclass(frozen=True)
class Kept:
    """What stands for a graph: the form and the weights that it was made of."""

    form: CallForm
    stamp: int
    memory_bytes: int = 1


def form(number: int) -> CallForm:
    return CallForm((("x", number),))


class Rank:
    """One rank, as the runner uses its ledger."""

    def __init__(self, most: int) -> None:
        self.ledger: Ledger[Kept, object] = Ledger(most)

    def carry_out(self, call: CallForm, stamp: int, move: GraphMove, reason: str) -> None:
        """Make a call."""
        self.ledger.note(call, move, reason)
        if move is GraphMove.REPLAY:
            assert self.ledger.graph(call) == Kept(call, stamp)
        elif move is GraphMove.REHEARSE:
            self.ledger.rehearsed(call, object())
        elif move is GraphMove.CAPTURE:
            self.ledger.keep(call, Kept(call, stamp))


events = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 5)),
        st.tuples(st.just("weights"), st.just(0)),
        st.tuples(st.just("lost"), st.integers(0, RANKS - 1)),
        st.tuples(st.just("unfit"), st.integers(0, RANKS - 1)),
        st.tuples(st.just("obstacle"), st.integers(0, RANKS - 1)),
    ),
    max_size=80,
)


@given(events, st.integers(1, MOST_GRAPHS))
def test_no_rank_captures_what_another_replays(happens: list[tuple[str, int]], most: int) -> None:
    """All ranks make the same move, a replay is of the same form and weights, and no more graphs are kept than said."""
    ranks, stamp, calls = [Rank(most) for _ in range(RANKS)], 0, 0
    obstacle: int | None = None
    for what, number in happens:
        if what == "weights":
            stamp += 1
        elif what == "lost":
            ranks[number].ledger.forget()
        elif what == "unfit":
            ranks[number].ledger.unfit(form(number), "it reads a mask")
        elif what == "obstacle":
            obstacle = number
        else:
            calls += 1
            call = form(number)
            told = [
                rank.ledger.propose(call, stamp, "a hook" if obstacle == place else None).to_plain()
                for place, rank in enumerate(ranks)
            ]
            obstacle = None
            moves = {settle([Proposal.from_plain(each) for each in told]) for _ in ranks}
            ((move, reason),) = moves
            assert (reason != "") == (move is GraphMove.EAGER)
            for rank in ranks:
                rank.carry_out(call, stamp, move, reason)
    for rank in ranks:
        report = rank.ledger.report
        made = report.rehearsed + report.captured + report.replayed + sum(report.eager.values())
        assert made == calls
        assert report.graphs <= most
        assert report.graphs == report.memory_bytes
    assert len({rank.ledger.report.replayed for rank in ranks}) == 1


@given(st.lists(st.integers(0, 7), min_size=1, max_size=60))
def test_a_form_is_rehearsed_then_captured_then_replayed(numbers: list[int]) -> None:
    """As long as no more forms are in use than are kept."""
    rank, seen = Rank(8), dict.fromkeys(numbers, 0)
    for number in numbers:
        call = form(number)
        move, reason = settle([rank.ledger.propose(call, "weights", None)])
        assert move is (GraphMove.REHEARSE, GraphMove.CAPTURE, GraphMove.REPLAY)[min(seen[number], 2)]
        rank.carry_out(call, 0, move, reason) if move is not GraphMove.REPLAY else rank.ledger.note(call, move, reason)
        seen[number] += 1


def proposal(digest: str = "a", rehearsals: int = 1, captured: bool = False, obstacle: str = "") -> Proposal:
    return Proposal(digest, rehearsals, captured, obstacle)


@pytest.mark.parametrize(
    ("proposals", "move"),
    [
        ([proposal(captured=True), proposal(captured=True)], (GraphMove.REPLAY, "")),
        ([proposal(captured=True), proposal()], (GraphMove.CAPTURE, "")),
        ([proposal(captured=True), proposal(rehearsals=0)], (GraphMove.REHEARSE, "")),
        ([proposal(captured=True), proposal(obstacle="a hook")], (GraphMove.EAGER, "a hook (rank 1)")),
        ([proposal(obstacle="a hook")] * 2, (GraphMove.EAGER, "a hook")),
        ([proposal("a", captured=True), proposal("b", captured=True)], (GraphMove.EAGER, None)),
    ],
)
def test_what_ranks_settle_on(proposals: list[Proposal], move: tuple[GraphMove, str | None]) -> None:
    found, reason = settle(proposals)
    assert found is move[0]
    assert reason == move[1] or (move[1] is None and "different forms" in reason)


def test_the_graph_that_was_not_used_for_longest_goes() -> None:
    ledger: Ledger[Kept, object] = Ledger(2)
    for number in (0, 1):
        ledger.keep(form(number), Kept(form(number), 0))
    ledger.note(form(0), GraphMove.REPLAY, "")
    ledger.keep(form(2), Kept(form(2), 0))
    assert [ledger.propose(form(number), None, None).captured for number in range(3)] == [True, False, True]
    assert ledger.report.dropped == 1


def test_a_reason_is_said_once_and_counted() -> None:
    ledger: Ledger[Kept, object] = Ledger()
    said = [ledger.note(form(0), GraphMove.EAGER, reason) for reason in ("a hook", "a hook", "a mask", "a hook")]
    assert said == ["runs without a CUDA graph, as a hook", None, "runs without a CUDA graph, as a mask", None]
    assert ledger.report.eager == {"a hook": 3, "a mask": 1}


def test_calls_that_are_always_new_are_told_of_with_what_differs() -> None:
    ledger: Ledger[Kept, object] = Ledger()
    said = []
    for step in range(10):
        call = CallForm((("hidden_states", "same"), ("timestep", step)))
        said.append(ledger.note(call, GraphMove.REHEARSE, ""))
        ledger.rehearsed(call, object())
    (told,) = [each for each in said if each]
    assert "6 times in a row with another timestep" in told


def test_a_report_in_words() -> None:
    report = GraphReport(2, 1, 25, {"a hook is there": 3}, 1, 2_500_000_000, 4)
    assert str(report) == (
        "25 calls replayed, 1 captured, 2 rehearsed, 3 eager (3 because a hook is there); "
        "1 graphs hold 2.50 GB, 4 were dropped"
    )
