"""Every family in every combination, against the unmodified single process; ``docs/support.md`` is its outcome."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosts.xfuser import generation
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.matrix import (
    COLUMNS,
    TOGETHER,
    Outcome,
    cases,
    fitting,
    is_quick,
    is_refused,
    kept,
    page,
)
from tests.hosts.xfuser.uses import page as uses_page
from tests.support.families import ALL_FAMILIES, FAMILIES, Family
from tests.support.overview import DOCS, with_overview
from tests.support.ranks import RankFailure, RankPool
from tests.support.reference import relative_error
from tokenring_xdit.errors import UnsupportedError

TOLERANCE = 1e-5

ALL = [
    pytest.param(
        family, column, case, id=f"{family}-{column}", marks=() if is_quick(family, column) else pytest.mark.matrix
    )
    for family, column, case in cases()
]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the tests of this module found; written to ``--support`` after a run that passed; what it left out stays."""
    target = request.config.getoption("--support")
    diffusers = (DOCS / "diffusers.md").read_text()
    found: dict[tuple[str, str], Outcome] = {}
    yield found
    if target is not None:
        chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
        cells = {(each["family"], each["column"]) for each in chosen if {"family", "column", "case"} <= each.keys()}
        missing = ["-".join(cell) for cell in sorted(cells - set(found))]
        if missing:
            pytest.fail(f"{target} was not written: these failed: {', '.join(missing)}")
        write(Path(target), found, diffusers)


def write(file: Path, found: dict[tuple[str, str], Outcome], diffusers: str) -> None:
    """Write the support matrix; what the file says of uses, and of cases that were left out, stays."""
    heading = f"\n{uses_page.HEADINGS['xfuser']}\n"
    tables, heading, rest = file.read_text().partition(heading) if file.exists() else ("", "", "")
    before = kept(tables) if tables else {}
    file.write_text(with_overview(page({**before, **found}) + heading + rest, diffusers))


def test_the_page_may_be_written_anywhere(tmp_path: Path) -> None:
    """Also where no page of the diffusers host lies beside it."""
    found = {(family, column): Outcome(1e-6) for family, column, _ in cases()}
    write(tmp_path / "new.md", found, (DOCS / "diffusers.md").read_text())
    text = (tmp_path / "new.md").read_text()
    assert text.startswith((DOCS / "support.md").read_text().partition("\n<!-- overview -->")[0])
    assert "| FLUX.1 | 1.0e-06 |" in text


def test_cases_that_were_left_out_stay(tmp_path: Path) -> None:
    file = tmp_path / "support.md"
    shutil.copy(DOCS / "support.md", file)
    before = file.read_text()
    write(file, {}, (DOCS / "diffusers.md").read_text())
    assert file.read_text() == before
    write(file, {("flux", column): Outcome(2e-6) for column in (*TOGETHER, *COLUMNS)}, "")
    changed = [line for line in file.read_text().splitlines() if line not in before.splitlines()]
    assert any(line.startswith("| FLUX.1 | 2.0e-06 | 2.0e-06 |") for line in changed)
    assert "| FLUX.1 (`xdit`) | 1.7e-07 |" in file.read_text()


@pytest.mark.parametrize(("family", "column", "case"), ALL)
def test_exact_or_refused(
    ranks: RankPool, outcomes: dict[tuple[str, str], Outcome], family: str, column: str, case: Case
) -> None:
    if is_refused(family, column):
        with pytest.raises(RankFailure) as failure:
            ranks.run(case.ranks, generation.error, case, timeout=300)
        errors = failure.value.errors
        assert all(isinstance(error, UnsupportedError) for error in errors)
        assert len({str(error) for error in errors}) == 1
        assert "Use " in str(errors[0])  # says what to do instead
        outcomes[family, column] = Outcome(None, str(errors[0]))
        return
    outcome = measure(ranks, column, case)
    print(f"{family}, {column}: {outcome}")
    assert outcome.error is not None
    assert outcome.error <= (TOLERANCE if outcome.single is None else 2 * outcome.single)
    outcomes[family, column] = outcome


ON_GPUS = [
    *((family, column, fitting) for family in FAMILIES for column in ("t2-bf16", "bf16", "u2tr2")),
    *(
        (family, column, COLUMNS[column].inputs)
        for family, column in (("sd3", "cfg"), ("flux", "data"), ("flux", "stages"))
    ),
]


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("family", "column", "inputs"), ON_GPUS, ids=[f"{family}-{column}" for family, column, _ in ON_GPUS]
)
def test_gpus_err_as_one_does(
    gpu_ranks: RankPool, family: str, column: str, inputs: Callable[[Family, int], dict[str, Any]]
) -> None:
    """In bf16, which xfuser's kernels for GPUs are made for."""
    together = column in TOGETHER
    degrees = (TOGETHER if together else COLUMNS)[column].degrees
    case = Case(family, together=together, **{**degrees, "dtype": torch.bfloat16})
    outcome = measure(gpu_ranks, "bf16", replace(case, inputs=inputs(ALL_FAMILIES[family], case.ranks)))
    print(f"{family}, {column}: {outcome}")
    assert outcome.error is not None
    assert outcome.single is not None
    assert outcome.single <= 0.5, "the reference was drawn from other noise"
    assert outcome.error <= 2 * outcome.single


@pytest.mark.cuda
@pytest.mark.parametrize(
    "case",
    [
        Case("flux", tokenring=2),
        Case("sd3", tokenring=2, cfg=True),
        Case("wan-t2v", tokenring=2, ulysses=2),
        Case("flux", ulysses=2),
        Case("flux", ring=2),
    ],
    ids=str,
)
def test_gpus_are_exact_in_fp32(gpu_ranks: RankPool, case: Case) -> None:
    """Which xfuser's kernel for GPUs makes NaN of, without TokenRing too."""
    outcome = measure(gpu_ranks, "fp32", replace(case, inputs=fitting(ALL_FAMILIES[case.family], case.ranks)))
    print(f"{case}: {outcome}")
    assert outcome.error is not None
    assert outcome.error <= TOLERANCE


def measure(ranks: RankPool, column: str, case: Case) -> Outcome:
    """Run a case against its reference: the unmodified single process, or what xfuser does without TokenRing."""
    if column in {"bf16", "t2-bf16"}:
        both = [
            pair for pair in ranks.run(case.ranks, generation.rounding_errors, case, timeout=300) if pair is not None
        ]
        single, distributed = (max(errors) for errors in zip(*both, strict=True))
        return Outcome(distributed, single=single)
    if column == "patches":
        alone = replace(case, tokenring=1)
        expected, actual = (last_latents(ranks, each) for each in (alone, case))
        in_order = last_latents(ranks, replace(alone, warmup=case.inputs["steps"]))
        assert relative_error(expected, in_order) > 10 * TOLERANCE, "no patch was behind the others"
        return Outcome(relative_error(actual, expected))
    errors = [error for error in ranks.run(case.ranks, generation.error, case, timeout=300) if error is not None]
    assert len(errors) >= case.data, "some group got no output"
    return Outcome(max(errors))


def last_latents(ranks: RankPool, case: Case) -> Tensor:
    """What the last stage of PipeFusion makes."""
    (*_, found) = [made for made in ranks.run(case.ranks, generation.latents, case, timeout=300) if made is not None]
    return found
