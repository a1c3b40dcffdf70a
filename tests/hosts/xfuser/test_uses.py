"""Each use of a pipeline in each family: right, or refused in one sentence on every rank before the transformer ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.xfuser import uses
from tests.hosts.xfuser.uses import USES, Kind, Outcome, judge, page
from tests.hosts.xfuser.uses.harness import Expected, Trial, Use
from tests.hosts.xfuser.uses.judging import forgiven
from tests.support.overview import DOCS
from tests.support.ranks import RankPool

QUICK = {
    ("Adapters/lora-all-before", "flux"),
    ("Adapters/lora-all-after", "sd3"),
    ("Adapters/lora-scale-all", "wan-t2v"),
    ("Schedulers/flow-stochastic-before", "z-image"),
    ("Schedulers/dpm-sde-after", "pixart-sigma"),
    ("Schedulers/ddim-thresholding-before", "hunyuan-dit"),
    ("The transformer/processors-own-after", "flux"),
    ("The transformer/hook-output-before", "wan-t2v"),
    ("Callbacks/callback-contrast", "sd3"),
    ("Callbacks/callback-latents-each-rank", "flux"),
    ("Calls/attributes", "latte"),
    ("Calls/pixel-each-rank", "flux-control"),
    ("Beside calls/saved", "sd3"),
    ("Beside calls/second", "flux"),
}
"""A use of each kind, each in another family; the default run of the tests takes them along."""

ALL = [
    pytest.param(
        use, family, id=f"{use}-{family}".replace(" ", "-"), marks=() if (use, family) in QUICK else pytest.mark.matrix
    )
    for use, family in uses.cases()
]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the tests of this module found."""
    with page.kept(request, uses.cases(), "xfuser") as found:
        yield found


@pytest.mark.cases(("use", "family"), ALL)
def test_right_or_refused(ranks: RankPool, outcomes: dict[tuple[str, str], Outcome], use: str, family: str) -> None:
    if (use, family) in outcomes:
        return  # kept from an earlier run
    outcome = uses.outcome_of(ranks, use, family)
    print(f"{USES[use].title}, {family}: {outcome}")
    assert outcome.kind in {Kind.RIGHT, Kind.REFUSED, Kind.ABSENT}, outcome.text
    assert (use, family) not in QUICK or outcome.kind is not Kind.ABSENT, outcome.text
    outcomes[use, family] = outcome


def test_other_pipelines_hear_what_was_asked(ranks: RankPool) -> None:
    first, second = ranks.run(2, uses.refusal_of, "StableDiffusionXLPipeline", {"ulysses_degree": 2})
    assert first == second
    assert "ulysses_degree=2" in first
    assert "StableDiffusionXLPipeline" in first
    assert "TokenRing was asked for" not in first
    assert "Call the pipeline without parallelize" in first


def test_quick_ones_exist() -> None:
    assert set(uses.cases()) >= QUICK


RIGHT = Trial(effect=0.5, error=1e-7)
REFUSED = Trial(effect=0.5, raised=("UnsupportedError", "a hook was found: use none"), refusal=True)


@pytest.mark.parametrize(
    ("use", "trials", "kind"),
    [
        (Use(""), [RIGHT, RIGHT], Kind.RIGHT),
        (Use(""), [REFUSED, REFUSED], Kind.REFUSED),
        (Use(""), [RIGHT, Trial(effect=0.5, error=2e-5)], Kind.WRONG),
        (Use(""), [RIGHT, Trial(effect=0.5, error=0.0, differs="scale is None in place of 3")], Kind.WRONG),
        (Use(""), [RIGHT, REFUSED], Kind.CRASH),
        (Use(""), [REFUSED, Trial(raised=("UnsupportedError", "another: use none"), refusal=True)], Kind.CRASH),
        (Use(""), [Trial(raised=("KeyError", "use"))] * 2, Kind.CRASH),
        (Use(""), [Trial(raised=("UnsupportedError", "hooks are bad"), refusal=True)] * 2, Kind.CRASH),
        (Use(""), [Trial(raised=("UnsupportedError", "use\nnone"), refusal=True)] * 2, Kind.CRASH),
        (Use(""), [Trial(raised=REFUSED.raised, refusal=True, forwards=1)] * 2, Kind.CRASH),
        (Use("", late=True), [Trial(raised=REFUSED.raised, refusal=True, forwards=1)] * 2, Kind.REFUSED),
        (Use("", names=("latents",)), [REFUSED, REFUSED], Kind.CRASH),
        (Use(""), [Trial(effect=0.0, error=1e-7)] * 2, Kind.ABSENT),
        (Use("", changes=False), [Trial(effect=0.0, error=1e-7)] * 2, Kind.RIGHT),
        (Use("", expected=Expected.RIGHT), [REFUSED, REFUSED], Kind.CRASH),
        (Use("", expected=Expected.REFUSED), [RIGHT, RIGHT], Kind.WRONG),
        (Use("", expected=Expected.ALIKE), [Trial(error=1.0, digest="a")] * 2, Kind.RIGHT),
        (Use("", expected=Expected.ALIKE), [Trial(error=1.0, digest=d) for d in "ab"], Kind.WRONG),
        (Use("", expected=Expected.ROUNDED), [Trial(error=0.3, effect=0.2)] * 2, Kind.RIGHT),
        (Use("", expected=Expected.ROUNDED), [Trial(error=0.5, effect=0.2)] * 2, Kind.WRONG),
        (Use("", raising=frozenset({1})), [REFUSED, Trial(raised=("OwnError", "full"))], Kind.CRASH),
        (
            Use("", raising=frozenset({1})),
            [Trial(raised=("AgreementError", "rank 1 failed"), refusal=True), Trial(raised=("OwnError", "full"))],
            Kind.REFUSED,
        ),
    ],
)
def test_judging(use: Use, trials: list[Trial], kind: Kind) -> None:
    assert judge(use, trials).kind is kind


def test_what_rounding_explains_is_right() -> None:
    off = judge(Use(""), [Trial(effect=0.5, error=2e-5)] * 2)
    assert forgiven(off, 1e-5).kind is Kind.RIGHT
    assert forgiven(off, 5e-6).kind is Kind.WRONG


def test_page_keeps_what_stands_before() -> None:
    made = page.section(
        {("Calls/tuple", "flux"): Outcome(Kind.RIGHT, 2e-7), ("Calls/tuple", "sd3"): Outcome(Kind.ABSENT)}
    )
    once = page.replaced("# Support matrix\n\ntable\n", made)
    assert once.startswith("# Support matrix\n\ntable\n\n## Uses\n")
    assert "| return_dict=False | 2.0e-07 | - |" in once
    assert page.replaced(once, made) == once


def test_page_has_a_section_of_each_host() -> None:
    """And a table of tasks; each section is replaced by itself."""
    ours = page.section({("Calls/tuple", "flux"): Outcome(Kind.RIGHT, 2e-7)})
    theirs = page.section({("Beside calls/plain", "flux-kontext"): Outcome(Kind.RIGHT, 3e-7)}, "diffusers")
    both = page.replaced(page.replaced("# Support matrix\n", ours), theirs, "diffusers")
    assert "| use | FLUX.1 Kontext |" in both
    assert "| a plain call | 3.0e-07 |" in both
    assert page.replaced(both, ours) == both == page.replaced(both, theirs, "diffusers")


@pytest.mark.parametrize("host", page.HEADINGS)
def test_cells_that_were_left_out_stay(host: str) -> None:
    """A run of some of them (``-k``) writes those, and the others as they stood."""
    text = (DOCS / "support.md").read_text()
    before = page.stated(text, host)
    assert page.replaced(text, page.section(before, host), host) == text
    cell = next(cell for cell, outcome in before.items() if outcome.kind is Kind.RIGHT)
    after = page.replaced(text, page.section({**before, cell: Outcome(Kind.RIGHT, 9.9e-6)}, host), host)
    assert page.stated(after, host) == {**before, cell: Outcome(Kind.RIGHT, 9.9e-6)}


def test_what_the_page_says_of_xfuser_is_whole() -> None:
    """Or a run of some of the cells would leave the families out."""
    before = page.stated((DOCS / "support.md").read_text())
    assert {family for _, family in page.whole_families(before, uses.cases())} == {family for _, family in before}


def test_uses_that_are_gone_are_not_stated() -> None:
    made = page.section({("Calls/tuple", "flux"): Outcome(Kind.RIGHT, 2e-7)})
    assert page.stated("\n" + made) == {("Calls/tuple", "flux"): Outcome(Kind.RIGHT, 2e-7)}
    assert page.stated("\n" + made.replace("return_dict=False", "gone")) == {}
    assert page.stated("\n" + made.replace("FLUX.1", "GONE.1")) == {}
