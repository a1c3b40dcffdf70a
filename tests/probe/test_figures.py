from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.probe.figures import (
    SAMPLED_ABOVE,
    Figures,
    Measured,
    ProbeTrial,
    TrialKind,
    suspected_trials,
    trials_for,
)


@given(st.integers(2, SAMPLED_ABOVE), st.booleans())
def test_every_pair_is_measured_alone_in_both_directions(ranks: int, quick: bool) -> None:
    alone = [t.transfers[0] for t in trials_for(ranks, quick=quick) if t.kind is TrialKind.ONE_WAY]
    assert sorted(alone) == sorted(permutations(range(ranks), 2))


@given(st.integers(2, 130), st.booleans())
def test_trials_are_sound(ranks: int, quick: bool) -> None:
    trials = trials_for(ranks, quick=quick)
    assert len(set(trials)) == len(trials)
    for trial in trials:
        assert len(set(trial.transfers)) == len(trial.transfers) > 0
        assert all(a != b and 0 <= a < ranks and 0 <= b < ranks for a, b in trial.transfers)
    kinds = {trial.kind for trial in trials}
    assert kinds >= (
        {TrialKind.ONE_WAY, TrialKind.BOTH_WAYS} | ({TrialKind.ONE_TO_ALL, TrialKind.SHIFT} if ranks > 2 else set())
    )


def test_what_is_measured_stays_reasonable() -> None:
    counts = {ranks: len(trials_for(ranks)) for ranks in (8, 16, 32, 128)}
    assert counts[8] < 120
    assert counts[16] < 420
    assert counts[128] < 128 * 2 * 12  # grows with the ranks, not with their pairs
    assert len(trials_for(8, quick=True)) < counts[8] * 0.75


@given(st.integers(SAMPLED_ABOVE + 1, 100))
def test_sampled_pairs_tie_every_rank_to_the_next(ranks: int) -> None:
    alone = {t.transfers[0] for t in trials_for(ranks) if t.kind is TrialKind.ONE_WAY}
    assert all((rank, (rank + 1) % ranks) in alone for rank in range(ranks))


def test_pairs_are_suspected_between_4_and_8_ranks() -> None:
    assert suspected_trials(3) == suspected_trials(9) == ()
    assert len(suspected_trials(4)) == 3 + 6
    assert len(suspected_trials(8)) == 21 + 42


def test_what_figures_come_to() -> None:
    figures = Figures(
        2,
        (
            Measured(ProbeTrial(TrialKind.ONE_WAY, ((0, 1),)), (100.0,), 0.1),
            Measured(ProbeTrial(TrialKind.ONE_WAY, ((1, 0),)), (60.0,), 0.3),
            Measured(ProbeTrial(TrialKind.BOTH_WAYS, ((0, 1), (1, 0))), (50.0, 46.0), 0.2),
        ),
    )
    assert figures.alone == {(0, 1): 100.0, (1, 0): 60.0}
    assert figures.noise == pytest.approx(0.2)
    assert figures.duplex == pytest.approx(96 / 160)
