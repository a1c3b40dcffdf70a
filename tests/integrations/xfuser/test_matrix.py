"""Every family in every combination, against the unmodified single process; ``docs/support.md`` is its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.xfuser import generation
from tests.integrations.xfuser.generation import Case
from tests.integrations.xfuser.matrix import COLUMNS, Outcome, cases, is_refused, page
from tests.support.ranks import RankFailure, RankPool
from tokenring_xdit.errors import UnsupportedError

TOLERANCE = 1e-5

ALL = [
    pytest.param(
        family, column, case, id=f"{family}-{column}", marks=() if COLUMNS[column].quick else pytest.mark.matrix
    )
    for family, column, case in cases()
]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Outcome]]:
    """What the tests of this module found; written to ``--support`` after a run that passed and left nothing out."""
    found: dict[tuple[str, str], Outcome] = {}
    yield found
    target = request.config.getoption("--support")
    if target is not None:
        missing = [parameters.id for parameters in ALL if tuple(parameters.values[:2]) not in found]
        if missing:
            pytest.fail(f"{target} was not written: these did not run or failed: {', '.join(map(str, missing))}")
        Path(target).write_text(page(found))


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
    if column == "bf16":
        both = [
            pair for pair in ranks.run(case.ranks, generation.rounding_errors, case, timeout=300) if pair is not None
        ]
        single, distributed = (max(errors) for errors in zip(*both, strict=True))
        print(f"{family}, {COLUMNS[column].title}: {distributed:.1e}, one process {single:.1e}")
        assert distributed <= 2 * single
        outcomes[family, column] = Outcome(distributed, single=single)
        return
    differences = [error for error in ranks.run(case.ranks, generation.error, case, timeout=300) if error is not None]
    assert differences, "no rank got an output"
    print(f"{family}, {COLUMNS[column].title}: {max(differences):.1e}")
    assert max(differences) <= TOLERANCE
    outcomes[family, column] = Outcome(max(differences))
