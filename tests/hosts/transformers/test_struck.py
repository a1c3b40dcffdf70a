"""A rank that is killed or stopped in the middle of a long answer is named by all others, within the limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention.test_watch import LATE
from tests.attention.trouble import run
from tests.hosts.transformers.struck import STEP, answering

_WORDS = {"kill": "rank {} is gone (process {} on host ", "stop": "rank {} is stopped (process {} on host "}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("struck", "kind", "family"),
    [
        (2, "kill", "llama"),
        pytest.param(0, "kill", "llama", marks=pytest.mark.matrix),  # which decides
        pytest.param(0, "stop", "llama", marks=pytest.mark.matrix),
        pytest.param(1, "stop", "llama", marks=pytest.mark.matrix),
        pytest.param(1, "kill", "gemma3", marks=pytest.mark.matrix),
        pytest.param(0, "kill", "gpt-oss", marks=pytest.mark.matrix),
        pytest.param(2, "kill", "qwen3-moe", marks=pytest.mark.matrix),
    ],
)
def test_a_rank_that_is_struck_while_it_answers_is_named(struck: int, kind: str, family: str, tmp_path: Path) -> None:
    others = tuple(rank for rank in range(3) if rank != struck)
    said = run(3, answering, struck, kind, family, folder=tmp_path, awaited=others)
    fault = said[struck].fault
    assert fault is not None
    for rank in others:
        ended, passes, again = said[rank].lines
        assert ended.startswith("CommunicationError: " + _WORDS[kind].format(struck, said[struck].pid))
        assert said[rank].times[0] - fault < LATE
        assert passes in {f"{STEP} passes", f"{STEP - 1} passes"}
        assert again.startswith("CommunicationError: ")
