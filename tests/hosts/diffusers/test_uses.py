"""Each use of a pipeline in each family, as :mod:`tests.hosts.xfuser.test_uses`, with diffusers as the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.xfuser import uses
from tests.hosts.xfuser.uses import FEW, USES, Kind, Outcome, page
from tests.hosts.xfuser.uses.arguments import returns
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool
from tests.support.small import ONLY_DIFFUSERS, TASKS
from tokenring_xdit.hosts.diffusers.offer import compared

QUICK = {
    ("Adapters/lora-all-after", "sd3"),
    ("Adapters/ip-after", "flux"),
    ("Schedulers/flow-stochastic-before", "flux"),
    ("The transformer/fused-projections-after", "sd3"),
    ("The transformer/cache-pyramid-after", "wan-t2v"),
    ("The transformer/cache-faster-before", "flux"),
    ("The transformer/casting-after", "qwen-image"),
    ("The transformer/group-block-before", "flux"),
    ("The transformer/compiled-before", "sd3"),
    ("Callbacks/callback-latents-each-rank", "flux"),
    ("Calls/pixel-each-rank", "flux-control"),
    ("Beside calls/second", "flux"),
    ("Beside calls/device-map", "flux"),
}
"""A use of each kind, on two ranks; everything is tried on three where there is time."""

REFUSED = {
    "The transformer/compiled-before",
    "Callbacks/callback-latents-each-rank",
    "Calls/pixel-each-rank",
}
"""Those of them that are refused; the others have to be right."""

_RUN = [name for name, family in FAMILIES.items() if family.runs in compared() and name != "flux-runner"]

ALL = [*uses.cases([*_RUN, "hunyuan-video-1.5", *ONLY_DIFFUSERS]), *uses.cases(TASKS, FEW)]


def _named(cases: Iterator[tuple[str, str]] | list[tuple[str, str]] | set[tuple[str, str]]) -> list[object]:
    return [pytest.param(use, family, id=f"{use}-{family}".replace(" ", "-")) for use, family in cases]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What three ranks found."""
    with page.kept(request, ALL, "diffusers") as found:
        yield found


@pytest.mark.parametrize(("use", "family"), _named(sorted(QUICK)))
def test_two_ranks(ranks: RankPool, use: str, family: str) -> None:
    outcome = uses.outcome_of(ranks, use, family, "diffusers")
    assert outcome.kind is (Kind.REFUSED if use in REFUSED else Kind.RIGHT), outcome.text


@pytest.mark.matrix
@pytest.mark.cases(("use", "family"), _named(ALL))
def test_right_or_refused(ranks: RankPool, outcomes: dict[tuple[str, str], Outcome], use: str, family: str) -> None:
    if (use, family) in outcomes:
        return  # kept from an earlier run
    outcome = uses.outcome_of(ranks, use, family, "diffusers", 3)
    print(f"{USES[use].title}, {family}: {outcome}")
    assert outcome.kind in {Kind.RIGHT, Kind.REFUSED, Kind.ABSENT}, outcome.text
    outcomes[use, family] = outcome


def test_what_encode_prompt_returns_is_known_of_each_family() -> None:
    assert all(returns(family)[0] == "prompt_embeds" for _, family in ALL)


def test_quick_ones_exist() -> None:
    assert set(ALL) >= QUICK
