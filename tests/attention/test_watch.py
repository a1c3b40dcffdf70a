"""A rank that is gone, is stopped or stays away: the others raise within the limit, and name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention.trouble import PHASES, Said, run, struck, struck_amid_messages

LATE = 12.0
"""Seconds: a bound against hanging; what is tested are limits of 2 and 4 s."""

WORDS = {"kill": "rank 1 is gone (process {pid} on host ", "stop": "rank 1 is stopped (process {pid} on host "}


def check_named(said: list[Said], words: str) -> None:
    fault = said[1].fault
    assert fault is not None
    for rank in (said[0], said[2]):
        told = [(line, time) for line, time in zip(rank.lines, rank.times, strict=True) if line not in {"right", "1"}]
        assert told, rank.lines
        line, time = told[0]
        assert line.startswith("CommunicationError: " + words), line
        assert time - fault < LATE


@pytest.mark.parametrize("kind", ["kill", "stop"])
@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_rank_that_is_struck_is_named(phase: str, kind: str, tmp_path: Path) -> None:
    said = run(3, struck, phase, kind, folder=tmp_path)
    check_named(said, WORDS[kind].format(pid=said[1].pid))
    for rank in (said[0], said[2]):
        assert rank.last.startswith("CommunicationError: ")  # the group is over


def test_a_rank_that_dies_before_anything_is_known_of_it_is_named(tmp_path: Path) -> None:
    said = run(3, struck, PHASES[0], "kill", folder=tmp_path)
    for rank in (said[0], said[2]):
        assert rank.last.startswith("CommunicationError: ") and "rank 1" in rank.last
        assert said[1].fault is not None and rank.times[0] - said[1].fault < LATE


@pytest.mark.parametrize("phase", ["before channels open", "in the kernel"])
def test_a_rank_that_raises_in_a_call_is_named_with_its_error(phase: str, tmp_path: Path) -> None:
    said = run(3, struck, phase, "raise", folder=tmp_path, awaited=(0, 1, 2))
    check_named(said, "rank 1 failed")
    for rank in (said[0], said[2]):
        assert "ValueError: a fault of rank 1" in next(line for line in rank.lines if line != "right")


@pytest.mark.parametrize("kind", ["kill", "stop"])
@pytest.mark.parametrize("after", [0.9, 1.3])
def test_messages_on_the_way_in_part_hold_nobody(kind: str, after: float, tmp_path: Path) -> None:
    said = run(3, struck_amid_messages, kind, after, folder=tmp_path)
    check_named(said, WORDS[kind].format(pid=said[1].pid))
