"""What is known of schedules is stated where their plans are written, and nowhere else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.schedules import EVERY_MASK, INSIDE, names
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import ALGORITHMS, Mask, Published, Schedule, build, known_as, parse
from tokenring_xdit.schedule import algorithm as registry
from tokenring_xdit.schedule.algorithm import algorithm

PACKAGE = Path(__file__).parents[2] / "tokenring_xdit"

AMBIGUOUS = {"heads", "mesh", "ring"}
"""Names that are also those of an axis, of networks and of xfuser's degree."""


def strings(path: Path) -> Iterator[str]:
    """Texts of a module that are not documentation."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_no_schedule_is_named_outside_the_builders() -> None:
    word = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(set(ALGORITHMS) - AMBIGUOUS))})(?![\w-])")
    found = {
        (str(path.relative_to(PACKAGE)), text)
        for path in PACKAGE.rglob("*.py")
        if not {"builders", "shipped"} & set(path.parts)
        for text in strings(path)
        if word.search(text)
    }
    assert found == {("defaults.py", DEFAULT_SCHEDULE)}


def test_the_list_is_the_same_everywhere() -> None:
    assert list(ALGORITHMS) == sorted(ALGORITHMS)
    code = "from tokenring_xdit.schedule import ALGORITHMS; print(*ALGORITHMS)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == list(ALGORITHMS)


@pytest.mark.parametrize(("name", "mask"), EVERY_MASK)
def test_a_schedule_can_be_built_as_it_is_registered(name: str, mask: Mask) -> None:
    assert build(name, 6, mask, 4).schedule.mask is mask
    assert ALGORITHMS[name].summary.endswith(".")
    for options in ALGORITHMS[name].worth(6, 4):
        assert parse(f"{name}:{options}" if options else name).name == name


def test_the_default_leaves_keys_at_home() -> None:
    """Messages send users there whose batch hides different keys."""
    assert build(DEFAULT_SCHEDULE, 5).keys_stay_whole
    assert known_as(Published.TOKEN_RING) == "token_ring"
    assert known_as(Published.RING) == "ring"


@pytest.mark.parametrize("inside", INSIDE)
def test_over_nodes_and_back(inside: str) -> None:
    for spelled in (parse(inside), parse(f"{inside}:chunks=3")):
        over = spelled.over_nodes(4)
        assert over.in_nodes() == (spelled, 4)
        assert over.algorithm.across_nodes
        assert build(str(over), 8).schedule.name == str(over)
        assert (spelled.over_nodes(1), spelled.in_nodes()) == (spelled, (spelled, 1))


@pytest.mark.parametrize("name", sorted(set(names()) - set(INSIDE)))
def test_others_do_not_run_inside_nodes(name: str) -> None:
    with pytest.raises(ScheduleError, match=f"has no inside={name}"):
        parse(name).over_nodes(2).plan(8)


def wrong_mask(world_size: int) -> Schedule:
    """Writes a plan for another mask than it says."""
    return Schedule("wrong_mask", world_size, ((),) * world_size, Mask.CAUSAL)


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"masks": []}, "'wrong_mask' is for no mask"),
        ({"inside_nodes": True}, "needs the options chunks"),
        ({"across_nodes": True}, "needs the options inside and nodes"),
        ({"published": Published.RING}, "not the only one that is published"),
    ],
)
def test_traits_that_do_not_go_together_are_refused(traits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm(**traits)(wrong_mask)
    assert "wrong_mask" not in ALGORITHMS


def test_a_plan_for_another_mask_than_was_asked_for_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    algorithm(masks=[Mask.FULL])(wrong_mask)
    with pytest.raises(ScheduleError, match="'wrong_mask' wrote a plan with a causal mask, not full"):
        registry.registered()["wrong_mask"].plan(1)
    with pytest.raises(ScheduleError, match="'wrong_mask' works under a full mask only, and a causal mask was asked"):
        registry.registered()["wrong_mask"].plan(1, Mask.CAUSAL)


NEW = '''
"""A schedule that nobody has heard of."""

from tokenring_xdit.schedule.algorithm import Guess, Look, algorithm
from tokenring_xdit.schedule.builders.direct import direct_kv
from tokenring_xdit.schedule.plan import Schedule

@algorithm(inside_nodes=True, guess=Guess(0), look=Look("red", "x"))
def brand_new(world_size: int, *, chunks: int = 1) -> Schedule:
    """The newest of all."""
    return direct_kv(world_size, chunks=chunks)
'''

USES = """
from tokenring_xdit.attention.auto import _guesses
from tokenring_xdit.bench.report.palette import styles
from tokenring_xdit.cli import main
from tokenring_xdit.planning import Machine, Problem, best_schedules, plan
from tokenring_xdit.schedule import Auto, Mask, build
from tokenring_xdit.topology import load_topology

main(["schedule", "list"])
cost, network = Machine(attend_rate=1e11, message_overhead=6e-5), load_topology("two-level:2x2:1gbit:1gbit")
problem = Problem.even(4, 256, 3, 16)
assert any("brand_new" == o.dims.sequence_schedule for o in best_schedules(problem, network, cost))
assert any("brand_new" == o.dims.sequence_schedule for o in best_schedules(problem, network, cost, mask=Mask.CAUSAL))
assert any("inside=brand_new" in o.dims.sequence_schedule for o in best_schedules(problem, network, cost, nodes=2))
assert any("brand_new" == o.dims.schedule and o.dims.ring == 2 for o in plan(problem, network, cost))
assert _guesses(Mask.FULL, 1)[0] == "brand_new"
assert "inside=brand_new" in _guesses(Mask.FULL, 2)[0]
assert build("hierarchical:inside=brand_new", 8).schedule.name == "hierarchical:inside=brand_new"
assert styles(["schedule:brand_new"])["schedule:brand_new"].symbol == "x"
"""


@pytest.mark.e2e
def test_a_new_schedule_is_one_file(tmp_path: Path) -> None:
    """Copied and extended, the package lists, builds, plans, tries, nests and draws it, with nothing else changed."""
    copy = tmp_path / "tokenring_xdit"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "model", "shipped"))
    (copy / "schedule" / "builders" / "brand_new.py").write_text(NEW)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "TOKENRING_AUTOLOAD": "0"}
    found = subprocess.run(
        [sys.executable, "-c", USES], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert re.search(r"^brand_new +The newest of all\. \[chunks=1,wide=1\]$", found.stdout, re.MULTILINE)
