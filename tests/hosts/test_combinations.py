"""Uses that come together, with diffusers as the host: right, or refused in one sentence on every rank."""

from __future__ import annotations

import pytest

from tests.hosts import combinations
from tests.hosts.combinations import COMBINATIONS
from tests.hosts.xfuser.uses import Kind
from tests.support.ranks import RankPool

FAMILIES = {
    "diffusers": ("flux", "sd3", "qwen-image", "wan-t2v", "z-image", "flux-kontext", "ltx2", "chroma"),
}
"""Pipelines by host."""

_MORE = ("flux-controlnet", "sd3-controlnet")
"""Where few combinations are tried: those of their own."""

CASES = [
    pytest.param(host, key, family, id=f"{host}-{key}-{family}")
    for host, families in FAMILIES.items()
    for family in families
    for key, use in COMBINATIONS.items()
    if use.families is None or family in use.families
] + [
    pytest.param("diffusers", key, family, id=f"diffusers-{key}-{family}")
    for key, use in COMBINATIONS.items()
    for family in _MORE
    if use.families is not None and family in use.families
]


@pytest.mark.matrix
@pytest.mark.cases(("host", "key", "family"), CASES)
def test_right_or_refused(ranks: RankPool, host: str, key: str, family: str) -> None:
    outcome = combinations.outcome_of(ranks, key, family, host, 2)
    print(f"{COMBINATIONS[key].title}, {family}, {host}: {outcome}")
    assert outcome.kind in {Kind.RIGHT, Kind.REFUSED, Kind.ABSENT}, outcome.text
