"""The names of xfuser that the integration stands on, one test each."""

from __future__ import annotations

import pytest

from tests.hosts.xfuser import jobs
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool
from tokenring_xdit.hosts.base import ReliedOn
from tokenring_xdit.hosts.xfuser.upstream import RELIED_ON, TESTED_VERSION


@pytest.fixture(scope="module")
def broken(ranks: RankPool) -> dict[str, str]:
    """Looked up in a worker, where xfuser is imported anyway."""
    return ranks.run(1, jobs.broken_names, timeout=300)[0]


@pytest.mark.parametrize("name", RELIED_ON, ids=lambda n: f"{n.module.removeprefix('xfuser.')}.{n.path}")
def test_a_name_relied_on_exists(broken: dict[str, str], name: ReliedOn) -> None:
    problem = broken.get(f"{name.module}.{name.path}")
    if problem is not None and "cannot be imported" in problem and any(each.missing for each in FAMILIES.values()):
        pytest.skip(problem)  # by a diffusers that is too old for the model
    assert problem is None


def test_a_name_that_is_gone_is_named() -> None:
    assert ReliedOn("json", "dumps.gone", "").problem() == "json has no dumps.gone"
    assert ReliedOn("no_such_module", "x", "").problem() is not None
    lost = ReliedOn("json", "loads", "", ("s", "speed")).problem()
    assert lost == "json.loads lost the parameters ['speed']"


def test_the_release_is_the_one_that_was_tried() -> None:
    from importlib.metadata import version

    assert version("xfuser").startswith(TESTED_VERSION.rsplit(".", 1)[0])
