from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.bench import Case, Shape, Strategy, StrategyKind, SweepConfig
from tokenring_xdit.bench.sweep import Axes
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.schedule import BUILDERS

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))

NAMES = ["single", "ulysses", "xfuser-ring", "xfuser-ring-alltoall", *(f"schedule:{name}" for name in BUILDERS)]

some = st.lists(st.integers(1, 64), min_size=1, max_size=3)
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)


@pytest.mark.parametrize("name", [*NAMES, "schedule:direct:chunks=4", "schedule:hierarchical:inside=direct,nodes=4"])
def test_a_strategy_is_written_as_it_is_read(name: str) -> None:
    assert str(Strategy.parse(name)) == name
    assert Strategy.parse(name).kind.value == name.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ring", "Did you mean 'schedule:ring'"),
        ("direct:chunks=4", "Did you mean 'schedule:direct:chunks=4'"),
        ("ulises", "Did you mean 'ulysses'"),
        ("schedule", "schedule:NAME"),
        ("ulysses:2", "there is no strategy"),
        ("schedule:tokenring", "Did you mean 'token_ring'"),
        ("schedule:direct:chunk=4", "Did you mean 'chunks'"),
    ],
)
def test_strategies_that_do_not_exist_are_refused(name: str, message: str) -> None:
    with pytest.raises(TokenRingError, match=message):
        Strategy.parse(name)


@given(ranks=st.integers(1, 70), tokens=st.integers(1, 5000))
def test_shards_are_the_sequence_cut_as_evenly_as_can_be(ranks: int, tokens: int) -> None:
    lengths = Shape(ranks, tokens, 1, 1, 1, "float32").lengths()
    assert len(lengths) == ranks
    assert sum(lengths) == tokens
    assert max(lengths) - min(lengths) <= 1


@given(ranks=some, tokens=some, heads=some, strategies=names)
def test_a_sweep_is_the_product_of_its_axes(
    ranks: list[int], tokens: list[int], heads: list[int], strategies: list[str]
) -> None:
    values = {"ranks": ranks, "tokens": tokens, "heads": heads, "strategies": strategies, "output": "here"}
    comparisons = SweepConfig.model_validate(values).comparisons()
    assert len(comparisons) == len(set(ranks)) * len(set(tokens)) * len(set(heads))
    for shape, cases in comparisons.items():
        assert {str(case.strategy) for case in cases} == set(strategies)
        assert len(cases) == len(set(strategies))
        assert all(case.shape == shape for case in cases)


@given(tokens=some, other=st.integers(65, 99))
def test_listed_cases_take_the_place_of_the_product(tokens: list[int], other: int) -> None:
    values = {"ranks": 2, "tokens": tokens, "strategies": ["single", "ulysses"], "output": "here"}
    listed = [{}, {"tokens": other, "strategies": "single"}, {"tokens": other, "strategies": "schedule:ring"}]
    comparisons = SweepConfig.model_validate({**values, "cases": listed}).comparisons()
    assert [shape.tokens for shape in comparisons] == [*dict.fromkeys(tokens), other]
    *_, last = comparisons.values()
    assert [str(case.strategy) for case in last] == ["single", "schedule:ring"]  # one comparison, both in it


@given(ranks=st.integers(1, 9), tokens=st.integers(1, 200), heads=st.integers(1, 12))
def test_ulysses_takes_what_divides_and_token_ring_everything(ranks: int, tokens: int, heads: int) -> None:
    shape = Shape(ranks, tokens, heads, 8, 1, "float32")
    fits = tokens % ranks == 0 and heads % ranks == 0
    assert (Case(shape, Strategy(StrategyKind.ULYSSES)).refusal() is None) == fits
    assert (Case(shape, Strategy(StrategyKind.XFUSER_RING)).refusal() is None) == (tokens % ranks == 0)
    assert Case(shape, Strategy.parse("schedule:token_ring")).refusal() is None


def test_a_schedule_that_is_not_defined_for_the_ranks_is_refused_in_its_own_words() -> None:
    case = Case(Shape(3, 96, 4, 8, 1, "float32"), Strategy.parse("schedule:hierarchical:nodes=2"))
    assert "2" in (case.refusal() or "")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_the_sweeps_that_come_along_are_sound(path: Path) -> None:
    config = read_config(SweepConfig, path)
    cases = [case for group in config.comparisons().values() for case in group]
    assert [case for case in cases if case.refusal() is not None] == []
    assert config.emulated is None or max(config.ranks) <= len(config.emulated.hosts)
    assert Path(config.output).name == path.stem


def test_there_are_the_sweeps_that_the_documentation_names() -> None:
    assert {path.stem for path in SWEEPS} >= {"smoke", "mesh-4", "mesh-8", "star-4", "loopback", "paper"}


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "strategies: [ring]\nranks: 8\ntokens: []\nheads: 0\ndtype: float64\nnetwork: mesh:4:100mbit\nround: 3\n"
    )
    with pytest.raises(ConfigurationError) as error:
        read_config(SweepConfig, path)
    said = str(error.value)
    for part in ("schedule:ring", "tokens: the list is empty", "heads", "float64", "Did you mean 'rounds'", "output"):
        assert part in said
    assert "8 do not fit into network 'mesh:4:100mbit'" in said


def test_axes_of_a_case_are_axes_of_the_sweep() -> None:
    assert set(Axes.model_fields) <= set(SweepConfig.model_fields)
