"""Each use of a pipeline in each family, as :mod:`tests.hosts.xfuser.test_uses`, with diffusers as the host."""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import uses
from tests.hosts.xfuser.uses import USES, Kind
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool
from tokenring_xdit.hosts.diffusers.offer import compared

QUICK = {
    ("Adapters/lora-all-before", "flux"),
    ("Adapters/lora-all-after", "sd3"),
    ("Adapters/lora-scale-all", "wan-t2v"),
    ("Schedulers/flow-stochastic-before", "flux"),
    ("Schedulers/dpm-sde-after", "pixart-sigma"),
    ("The transformer/processors-after", "flux"),
    ("The transformer/processors-own-after", "wan-t2v"),
    ("The transformer/fused-projections-after", "sd3"),
    ("The transformer/cache-pyramid-after", "wan-t2v"),
    ("The transformer/cache-first-block-after", "wan-i2v"),
    ("The transformer/cache-faster-after", "flux"),
    ("The transformer/casting-after", "qwen-image"),
    ("The transformer/group-block-after", "flux"),
    ("The transformer/group-leaf-after", "sd3"),
    ("The transformer/compiled-after", "flux"),
    ("The transformer/compiled-blocks-after", "wan-t2v"),
    ("The transformer/compiled-before", "sd3"),
    ("The transformer/weights-each-rank-after", "flux"),
    ("The transformer/skipped-layers", "sd3"),
    ("The transformer/chunking-after", "sd3"),
    ("Callbacks/callback-latents-each-rank", "flux"),
    ("Calls/pixel-each-rank", "flux-control"),
    ("Beside calls/saved", "sd3"),
    ("Beside calls/second", "flux"),
}
"""A use of each kind; of the others only a run of everything has time."""

ALL = [
    pytest.param(
        use, family, id=f"{use}-{family}".replace(" ", "-"), marks=() if (use, family) in QUICK else pytest.mark.matrix
    )
    for use, family in uses.cases()
    if FAMILIES[family].runs in compared()
]


@pytest.mark.parametrize(("use", "family"), ALL)
def test_right_or_refused(ranks: RankPool, use: str, family: str) -> None:
    outcome = uses.outcome_of(ranks, use, family, "diffusers")
    print(f"{USES[use].title}, {family}: {outcome}")
    assert outcome.kind in {Kind.RIGHT, Kind.REFUSED, Kind.ABSENT}, outcome.text
    assert (use, family) not in QUICK or outcome.kind is not Kind.ABSENT, outcome.text
