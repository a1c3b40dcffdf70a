"""What ``auto`` tries is over before anything is measured of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.bench import CallShape
from tokenring_xdit.bench.workload import WorkloadShape

UNKNOWN = {"heads", "direct:chunks=4", "bidirectional", "token_ring"}


@pytest.mark.parametrize("name", ["schedule:auto", "ulysses=2+schedule:auto"])
def test_attention_is_timed_with_what_auto_settled_on(ranks: RankPool, name: str, tmp_path: Path) -> None:
    shape = CallShape(4, 64, None, 4, 8, 1, "float32")
    answers = ranks.run(4, jobs.settled, shape, name, str(tmp_path), timeout=300)
    for (checked, timed, traced), _ in answers:
        assert checked == len(UNKNOWN) * 4
        assert timed == traced == 0
    assert answers[0][1] in UNKNOWN


def test_steps_are_timed_with_what_auto_settled_on(ranks: RankPool, tmp_path: Path) -> None:
    small = "random-flux:double=1,single=1,heads=4,head_dim=16,text_tokens=16"
    shape = WorkloadShape.of(2, small, "64x64", 1, "float32")
    answers = ranks.run(2, jobs.settled, shape, "schedule:auto", str(tmp_path), timeout=300)
    for (checked, timed, traced), _ in answers:
        assert checked == len(UNKNOWN) * 4
        assert timed == traced == 0
    assert answers[0][1] in UNKNOWN
