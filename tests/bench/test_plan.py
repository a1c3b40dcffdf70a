from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.bench import CallShape, Case, Strategy, StrategyKind, SweepConfig, inspect_models
from tokenring_xdit.bench.sweep import Axes
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.schedule import ALGORITHMS

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))

NAMES = ["single", "ulysses", "xfuser-ring", "xfuser-ring-alltoall", *(f"schedule:{name}" for name in ALGORITHMS)]

some = st.lists(st.integers(1, 64), min_size=1, max_size=3)
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)


@pytest.mark.parametrize("name", [*NAMES, "schedule:direct:chunks=4", "schedule:hierarchical:inside=direct,nodes=4"])
def test_a_strategy_is_written_as_it_is_read(name: str) -> None:
    assert str(Strategy.parse(name)) == name
    assert Strategy.parse(name).kind.value == name.partition(":")[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"single", "ulysses"}])
@pytest.mark.parametrize("degree", [2, 8])
def test_a_hybrid_is_written_as_it_is_read(name: str, degree: int) -> None:
    hybrid, alone = Strategy.parse(f"ulysses={degree}+{name}"), Strategy.parse(name)
    assert str(hybrid) == f"ulysses={degree}+{name}"
    assert (hybrid.kind, hybrid.schedule, hybrid.ulysses) == (alone.kind, alone.schedule, degree)
    assert hybrid.through_usp


@pytest.mark.parametrize("name", ["ulysses", "schedule:direct:chunks=4", "ulysses=2+xfuser-ring"])
def test_a_captured_strategy_is_written_as_it_is_read(name: str) -> None:
    captured, launched = Strategy.parse(f"captured+{name}"), Strategy.parse(name)
    assert str(captured) == f"captured+{name}"
    assert captured.launched == launched
    assert captured.dims(8) == launched.dims(8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ring", "Did you mean 'schedule:ring'"),
        ("direct:chunks=4", "Did you mean 'schedule:direct:chunks=4'"),
        ("ulises", "Did you mean 'ulysses'"),
        ("schedule", "schedule:NAME"),
        ("ulysses:2", "there is no strategy"),
        ("ulysses=2", "use 'ulysses' for all of them"),
        ("ulysses=1+schedule:ring", "2 or more"),
        ("ulysses=two+schedule:ring", "2 or more"),
        ("ulysses=2+", "there is no strategy ''"),
        ("captured+single", "what is captured are calls of several ranks"),
        ("captured+captured+ulysses", "what is captured are calls of several ranks"),
        ("ulysses=2+captured+xfuser-ring", "cannot be combined with Ulysses"),
        ("captured+", "there is no strategy ''"),
        ("ulysses=2+single", "'single' cannot be combined with Ulysses"),
        ("ulysses=2+ulysses", "'ulysses' cannot be combined with Ulysses"),
        ("ulysses=2+ulysses=2+xfuser-ring", "cannot be combined with Ulysses"),
        ("ulysses=2+direct", "Did you mean 'schedule:direct'"),
        ("ulysses=2+schedule:direct:chunk=4", "Did you mean 'chunks'"),
        ("schedule:tokenring", "Did you mean 'token_ring'"),
        ("schedule:direct:chunk=4", "Did you mean 'chunks'"),
    ],
)
def test_strategies_that_do_not_exist_are_refused(name: str, message: str) -> None:
    with pytest.raises(TokenRingError, match=message):
        Strategy.parse(name)


@given(ranks=st.integers(1, 70), tokens=st.integers(1, 5000))
def test_shards_are_the_sequence_cut_as_evenly_as_can_be(ranks: int, tokens: int) -> None:
    lengths = CallShape(ranks, tokens, None, 1, 1, 1, "float32").lengths()
    assert len(lengths) == ranks
    assert sum(lengths) == tokens
    assert max(lengths) - min(lengths) <= 1


@given(ranks=st.integers(1, 70), tokens=st.integers(1, 5000), queries=st.integers(1, 5000))
def test_queries_are_shared_out_apart_from_keys(ranks: int, tokens: int, queries: int) -> None:
    shape = CallShape(ranks, tokens, queries, 1, 1, 1, "float32")
    assert (sum(shape.lengths()), sum(shape.query_lengths())) == (tokens, queries)
    fits = tokens % ranks == 0 and queries % ranks == 0
    assert (shape.refusal(Strategy(StrategyKind.XFUSER_RING)) is None) == fits


def test_as_many_queries_as_tokens_are_the_same_as_nothing_said() -> None:
    values = {"ranks": 2, "tokens": [16, 32], "queries": [16, 4], "strategies": "single", "output": "here"}
    shapes = SweepConfig.model_validate(values).comparisons()
    assert [(shape.tokens, shape.queries) for shape in shapes] == [(16, None), (16, 4), (32, 16), (32, 4)]


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
    shape = CallShape(ranks, tokens, None, heads, 8, 1, "float32")
    fits = tokens % ranks == 0 and heads % ranks == 0
    assert (Case(shape, Strategy(StrategyKind.ULYSSES)).refusal() is None) == fits
    assert (Case(shape, Strategy(StrategyKind.XFUSER_RING)).refusal() is None) == (tokens % ranks == 0)
    assert Case(shape, Strategy.parse("schedule:token_ring")).refusal() is None


@given(ranks=st.integers(2, 12), heads=st.integers(1, 12), degree=st.integers(2, 6), shard=st.integers(1, 9))
def test_a_hybrid_takes_ranks_and_heads_that_its_degrees_divide(
    ranks: int, heads: int, degree: int, shard: int
) -> None:
    shape = CallShape(ranks, ranks * shard, None, heads, 8, 1, "float32")
    fits = ranks % degree == 0 and ranks > degree and heads % degree == 0
    for name in ("xfuser-ring", "schedule:token_ring"):
        assert (Case(shape, Strategy.parse(f"ulysses={degree}+{name}")).refusal() is None) == fits
    longer = CallShape(ranks, ranks * shard + 1, None, heads, 8, 1, "float32")
    assert Case(longer, Strategy.parse(f"ulysses={degree}+schedule:ring")).refusal() is not None


def test_the_schedule_of_a_hybrid_is_planned_for_its_share_of_the_ranks() -> None:
    case = Case(CallShape(12, 96, None, 4, 8, 1, "float32"), Strategy.parse("ulysses=2+schedule:hierarchical:nodes=4"))
    assert "6" in (case.refusal() or "")


@pytest.mark.parametrize(
    ("name", "degrees"),
    [
        ("single", ParallelDims()),
        ("ulysses", ParallelDims(ulysses=8)),
        ("xfuser-ring", ParallelDims(ring=8)),
        ("schedule:direct", ParallelDims(tokenring=8, schedule="direct")),
        ("ulysses=2+xfuser-ring-alltoall", ParallelDims(ulysses=2, ring=4)),
        ("ulysses=4+schedule:mesh", ParallelDims(ulysses=4, tokenring=2, schedule="mesh")),
    ],
)
def test_a_strategy_says_how_ranks_are_divided(name: str, degrees: ParallelDims) -> None:
    assert Strategy.parse(name).dims(8) == degrees


def test_the_tokens_of_a_scene_follow_from_its_model_and_size() -> None:
    shape = WorkloadShape.of(4, "random-flux:heads=24,head_dim=128,text_tokens=512", "1024x1024", 2, "bfloat16")
    assert (shape.tokens, shape.heads, shape.head_dim) == (64 * 64 + 512, 24, 128)
    assert WorkloadShape.of(4, "embedded", "64x32", 2, "float32").tokens == 8 * 4 + 24  # see embedded/model/README.md
    assert WorkloadShape.of(4, str(MODEL_PATH), "64x32", 2, "float32").heads == 4


@pytest.mark.parametrize(
    ("name", "ranks", "size", "message"),
    [
        ("schedule:ring", 3, "64x64", None),
        ("ulysses=2+schedule:ring", 4, "64x72", None),
        ("single", 3, "64x64", None),
        ("single", 1, "64x64", None),
        ("schedule:ring", 1, "64x64", "needs more than one rank"),
        ("xfuser-ring", 3, "64x64", "cannot share 8 rows of image tokens among 3 ranks"),
        ("xfuser-ring", 7, "64x56", "do not divide: tokenring_degree=7"),
        ("ulysses", 3, "64x64", "4 heads do not divide by 3 ranks"),
        ("schedule:ring", 2, "64x65", "not a multiple of 8 pixels"),
        ("schedule:hierarchical:nodes=3", 4, "64x64", "nodes"),
    ],
)
def test_strategies_that_do_not_fit_a_scene_are_refused(name: str, ranks: int, size: str, message: str | None) -> None:
    refusal = Case(WorkloadShape.of(ranks, "embedded", size, 1, "float32"), Strategy.parse(name)).refusal()
    assert refusal is None if message is None else message in (refusal or "")


def test_axes_of_the_other_level_are_refused() -> None:
    base = {"strategies": "single", "ranks": 2, "output": "here"}
    for values, messages in (
        ({**base, "tokens": 64, "cases": [{"sizes": 64}]}, ["sizes: belongs to level pipeline"]),
        ({**base, "level": "pipeline", "heads": 4}, ["heads: belongs to level attention", "models: is", "sizes: is"]),
        ({**base, "level": "pipeline", "models": "embedded", "cases": [{"sizes": 64}, {}]}, ["sizes: is missing"]),
        ({**base, "cases": [{"tokens": 64}, {"tokens": 32}]}, []),
        ({**base, "level": "pipeline", "cases": [{"sizes": 64, "models": "embedded"}]}, []),
    ):
        config = SweepConfig.model_validate(values)
        mistakes = SweepConfig.mistakes_between(dict(config))
        assert len(mistakes) == len(messages)
        assert all(mistake.startswith(message) for mistake, message in zip(mistakes, messages, strict=True))


def test_models_are_looked_at_before_anything_is_started(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"level: pipeline\nmodels: [embedded, {other}, 'random-flux:head=2']\nsizes: 64\nranks: 2\n"
        "strategies: single\nrounds: 0\noutput: here\n"
    )
    with pytest.raises(ConfigurationError) as error:
        read_config(SweepConfig, path, inspect=inspect_models)
    for part in ("is a WanPipeline", "model 'random-flux' has no option 'head'", "rounds: 0 is not allowed"):
        assert part in str(error.value)


def test_a_schedule_that_is_not_defined_for_the_ranks_is_refused_in_its_own_words() -> None:
    case = Case(CallShape(3, 96, None, 4, 8, 1, "float32"), Strategy.parse("schedule:hierarchical:nodes=2"))
    assert "2" in (case.refusal() or "")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_the_sweeps_that_come_along_are_sound(path: Path) -> None:
    config = read_config(SweepConfig, path, inspect=inspect_models)
    cases = [case for group in config.comparisons().values() for case in group]
    assert [case for case in cases if case.refusal() is not None] == []
    assert config.emulated is None or max(case.shape.ranks for case in cases) <= len(config.emulated.hosts)
    assert Path(config.output).name == path.stem


def test_there_are_the_sweeps_that_the_documentation_names() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    listed = page.partition("## Sweeps in this repository")[2].partition("\n## ")[0]
    names = [line.split("|")[1] for line in listed.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([a-z0-9-]+)`", " ".join(names))) == {path.stem for path in SWEEPS}


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
