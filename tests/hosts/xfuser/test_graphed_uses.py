"""Uses of pipelines whose transformers' calls are replayed: right, refused, or run as they are with a reason."""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import uses
from tests.hosts.xfuser.uses import USES, Kind
from tests.support.ranks import RankPool

FAMILIES = ("flux", "sd3", "wan-t2v", "qwen-image", "z-image", "lumina2", "hunyuan-video")
"""One of each kind: without masks, with guidance in a batch and in calls of its own, with masks of each kind."""

ALL = [
    *((use, "flux") for use, _ in uses.cases(["flux"])),
    *uses.cases([family for family in FAMILIES if family != "flux"], uses.FEW),
]


@pytest.mark.matrix
@pytest.mark.parametrize(("use", "family"), ALL)
def test_right_or_refused_or_as_they_are(ranks: RankPool, use: str, family: str) -> None:
    trials = ranks.run(2, uses.tried, use, family, "xfuser", True, timeout=300)
    outcome = uses.judged(ranks, use, family, "xfuser", trials, graphs=True)
    print(f"{USES[use].title}, {family}: {outcome}")
    for trial in trials:
        for name, report in trial.graphs.items():
            print(f"{name}: {report}")
    assert outcome.kind in {Kind.RIGHT, Kind.REFUSED, Kind.ABSENT}, outcome.text
    reports = [{name: str(report) for name, report in trial.graphs.items()} for trial in trials]
    assert reports[0] == reports[1]
    for report in trials[0].graphs.values():
        calls = report.rehearsed + report.captured + report.replayed
        assert report.captured or report.eager or calls < 3, report  # it engages, or says why not
