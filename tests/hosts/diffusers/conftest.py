"""What the tests of this folder find, for ``docs/diffusers.md``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from tests.hosts.diffusers.page import Found, replaced

_OLDEST = "0.42"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where diffusers is older than what was compared: it is refused there."""
    if Version(version("diffusers")) < Version(_OLDEST):
        for item in items:
            if Path(__file__).parent in item.path.parents and item.name != "test_older_ones_are_refused":
                item.add_marker(pytest.mark.skip(f"needs diffusers {_OLDEST}"))


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
