"""Calls are numbered: none is answered with the messages of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention.trouble import a_keyed_call_behind, out_of_step, run


@pytest.mark.parametrize("calls", [(1, 0), (0, 1)])
def test_ranks_at_different_calls_are_told_apart(calls: tuple[int, int], tmp_path: Path) -> None:
    ahead, other = calls
    for rank in run(3, out_of_step, calls, folder=tmp_path, awaited=(0, 1, 2)):
        first, wrong, after = rank.lines
        assert (first, after) == ("right", "right")
        assert wrong.startswith("AgreementError: the ranks of this group are not at the same call: ")
        theirs = f"rank 1 is at call {2 + ahead}, {'names' if other else 'attention'}"
        assert f"rank 0 and 2 are at call 2, attention, {theirs}" in wrong


@pytest.mark.e2e
def test_messages_of_different_calls_are_not_matched_where_nothing_is_compared(tmp_path: Path) -> None:
    for rank in run(3, a_keyed_call_behind, folder=tmp_path, awaited=(0, 1, 2)):
        assert rank.lines[:2] == ["right", "right"]
        assert rank.last.startswith("CommunicationError: "), rank.last
