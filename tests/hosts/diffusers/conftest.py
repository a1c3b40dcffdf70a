"""What the tests of this folder find, for ``docs/diffusers.md``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.diffusers.page import Found, replaced


@pytest.fixture(scope="package")
def found(request: pytest.FixtureRequest) -> Iterator[Found]:
    """Outcomes of this run; written to ``--support-diffusers`` after one in which nothing failed."""
    outcomes = Found()
    before = request.session.testsfailed
    yield outcomes
    target = request.config.getoption("--support-diffusers")
    if target is not None and request.session.testsfailed == before:
        file = Path(target)
        file.write_text(replaced(file.read_text(), outcomes))
