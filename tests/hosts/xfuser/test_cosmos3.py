"""Cosmos 3 beyond a video from text."""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import generation, packed
from tests.hosts.xfuser.generation import Case
from tests.support.ranks import RankPool

pytestmark = [pytest.mark.family("cosmos3"), pytest.mark.matrix]

TOLERANCE = 1e-5


@pytest.mark.parametrize("together", [False, True], ids=["xdit", "parallelize"])
def test_a_video_from_a_picture(ranks: RankPool, together: bool) -> None:
    case = Case("cosmos3", tokenring=3, together=together, inputs={"image": True, "height": 112, "width": 80})
    for error in ranks.run(3, generation.error, case, timeout=300):
        assert error is not None
        assert error <= TOLERANCE


def test_padding_that_is_seen_shows(ranks: RankPool) -> None:
    case = Case("cosmos3", tokenring=3, inputs={"height": 112, "width": 80})
    for error in ranks.run(3, packed.cosmos3_with_padding_seen, case, timeout=300):
        assert error is not None
        assert error > 10 * TOLERANCE


def test_sound_and_other_norms_are_refused(ranks: RankPool) -> None:
    for said in ranks.run(2, packed.refusals_of_cosmos3, timeout=300):
        assert "Cosmos 3 with sound was asked for" in said["sound"]
        assert "use_und_k_norm_for_gen was asked for" in said["norm"]
        assert said["norm, xdit"] == said["norm"]
