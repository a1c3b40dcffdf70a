"""What programs round attention use: values of all ranks, and guarded sections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attention.test_watch import LATE, WORDS, check_named
from tests.attention.trouble import another_world, exchanged, guarded_work, run, stays_away

pytestmark = pytest.mark.ranks


def test_values_of_all_ranks(tmp_path: Path) -> None:
    for rank in run(3, exchanged, "", folder=tmp_path, awaited=(0, 1, 2)):
        assert rank.lines == ["[('value', 0), ('value', 1), ('value', 2)]", "[300000, 300000, 300000]", "[0, 1, 2]"]


def test_a_value_that_cannot_be_sent_is_told_to_all(tmp_path: Path) -> None:
    for rank in run(3, exchanged, "pickle", folder=tmp_path, awaited=(0, 1, 2)):
        assert rank.lines[1].startswith("AgreementError: names was refused: rank 1: ")
        assert rank.last == "[0, 1, 2]"


def test_an_exchange_is_not_taken_for_attention(tmp_path: Path) -> None:
    for rank in run(3, exchanged, "attention", folder=tmp_path, awaited=(0, 1, 2)):
        assert rank.lines[1].startswith("AgreementError: the ranks of this group are not at the same call: ")
        assert "rank 0 and 2 are at call 2, names, rank 1 is at call 2, attention" in rank.lines[1]
        assert rank.last == "[0, 1, 2]"


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_an_exchange_with_a_rank_that_is_struck(kind: str, tmp_path: Path) -> None:
    said = run(3, exchanged, kind, folder=tmp_path)
    for each in said:
        del each.lines[0], each.times[0]
    check_named(said, WORDS[kind].format(pid=said[1].pid))


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    said = run(3, stays_away, folder=tmp_path)
    for rank in (0, 2):
        assert said[rank].last.startswith(f"CommunicationError: rank 1 (process {said[1].pid} on host ")
        # it may hear of it from the other one before its own time is over
        assert re.search("did not come within 10 s, though its process runs: rank [02] waited ", said[rank].last)
        assert "the prompts" in said[rank].last
        assert said[rank].times[1] - said[rank].times[0] < LATE


@pytest.mark.parametrize("kind", ["kill", "stop", "raise"])
def test_waits_of_others_end_in_a_guarded_section(kind: str, tmp_path: Path) -> None:
    """The collective that is waited for is torch's own, which no limit of this package bounds."""
    said = run(3, guarded_work, kind, folder=tmp_path)
    words = "rank 1 failed in the pipeline call: ValueError: a fault of rank 1: rank "
    check_named(said, words if kind == "raise" else WORDS[kind].format(pid=said[1].pid))


def test_what_all_ranks_raise_alike_gives_nothing_up(tmp_path: Path) -> None:
    for rank in run(3, guarded_work, "everywhere", folder=tmp_path, awaited=(0, 1, 2)):
        assert rank.lines == ["ValueError: a prompt has to be text", "done"]


def test_waits_of_another_world_are_not_ended(tmp_path: Path) -> None:
    said = run(2, another_world, str(tmp_path), folder=tmp_path, awaited=(0, 1))
    assert said[0].lines[0].startswith("CommunicationError: rank 1 failed in the pipeline call: ValueError")
    assert [rank.last for rank in said] == ["2.0", "2.0"]
