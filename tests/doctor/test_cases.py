"""What a checkup does, before it does anything."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tokenring_xdit.cli import main
from tokenring_xdit.cli.arguments.doctor import PARTS
from tokenring_xdit.cli.doctor import _check_environment, _folder, _plan, _plan_of_torchrun
from tokenring_xdit.doctor.cases import CheckupPart, CheckupPlan, check_calls
from tokenring_xdit.doctor.checkup import impossible
from tokenring_xdit.doctor.timing import attention_sweep, step_sweep
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import ALGORITHMS, Mask, build, parse


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_every_schedule_is_called_under_each_of_its_masks_narrow_and_wide(world: int) -> None:
    calls = check_calls(world, ("float32",))
    assert set(calls) == set(ALGORITHMS)
    for name, own in calls.items():
        if not own:  # not for that many ranks, under any mask
            assert name in {"hierarchical", "mesh"}
            continue
        assert {call.causal for call in own} == {mask is Mask.CAUSAL for mask in ALGORITHMS[name].masks}
        assert {dict(parse(call.schedule).options).get("wide", 1) for call in own} == {1, world}
        for causal in {call.causal for call in own}:
            same = [call for call in own if call.causal is causal]
            assert {len(set(call.lengths)) == 1 for call in same} == {True, False}
            assert {call.heads == call.kv_heads for call in same} == {True, False}
            assert {call.text > 0 for call in same} == ({False} if causal else {True, False})


@pytest.mark.parametrize("world", [2, 4, 5])
def test_the_calls_of_a_checkup_can_run(world: int) -> None:
    for calls in check_calls(world, ("float32",)).values():
        for call in calls:
            verified = build(
                call.schedule, world, Mask.CAUSAL if call.causal else Mask.FULL, min(call.heads, call.kv_heads)
            )
            assert verified.takes_heads(call.heads, call.kv_heads)
            assert len(call.lengths) == world


def test_gpus_are_checked_in_bf16_too() -> None:
    assert CheckupPlan(ranks=8, gpus=8).dtypes == ("bfloat16", "float32")
    assert CheckupPlan(ranks=4, gpus=0).dtypes == ("float32",)
    assert CheckupPlan(ranks=4, gpus=1).dtypes == ("float32",)  # on the processor


@pytest.mark.parametrize("world", [2, 6, 8])
def test_models_are_timed_on_gpus_at_lengths_that_ranks_share_evenly(world: int, tmp_path: Path) -> None:
    plan = CheckupPlan(ranks=world, gpus=world)
    assert [shape.name for shape in plan.shapes] == ["Flux 1024", "Flux 2048", "SD3 1024", "Wan 720p"]
    lengths = {"Flux 1024": 4608, "Flux 2048": 16896, "SD3 1024": 4429, "Wan 720p": 75600}
    for shape in plan.shapes:
        assert shape.tokens == lengths[shape.name] // world * world
    sweep = attention_sweep(plan, tmp_path)
    assert sweep.mistakes_between(dict(sweep)) == []
    refused = [str(case.strategy) for cases in sweep.comparisons().values() for case in cases if case.refusal()]
    assert set(refused) <= {
        "ulysses",
        "captured+ulysses",
    }  # whose heads divide by 8, and of Wan's 40 and others' 24 not all by 6


def test_a_step_runs_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenring_xdit.hosts.diffusers.own.version", lambda name: "0.42.0")  # older ones are refused
    for plan, ranks in ((CheckupPlan(4, 0), 4), (CheckupPlan(4, 0, quick=True), 2), (CheckupPlan(4, 1), 1)):
        sweep = step_sweep(plan, tmp_path)
        cases = [case for cases in sweep.comparisons().values() for case in cases]
        assert {case.shape.ranks for case in cases} == {ranks}
        assert [case.refusal() for case in cases] == [None] * len(cases)
        assert not any(case.strategy.captured for case in cases)


def test_steps_are_captured_too_where_each_rank_has_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenring_xdit.hosts.diffusers.own.version", lambda name: "0.42.0")
    sweep = step_sweep(CheckupPlan(8, 8), tmp_path)
    cases = [case for cases in sweep.comparisons().values() for case in cases]
    assert [case.refusal() for case in cases] == [None] * len(cases)
    captured = {str(case.strategy) for case in cases if case.strategy.captured}
    assert captured == {"captured+ulysses", "captured+xfuser-ring", "captured+schedule:token_ring"}


def test_what_one_gpu_cannot_do_is_known_before() -> None:
    one, none, many = CheckupPlan(4, 1), CheckupPlan(4, 0), CheckupPlan(4, 4)
    assert {part for part in CheckupPart if impossible(one, part)} == {CheckupPart.LINKS, CheckupPart.STRATEGIES}
    assert not any(impossible(plan, part) for plan in (none, many) for part in CheckupPart)


@pytest.mark.parametrize(
    ("variable", "value", "refusal"),
    [
        ("TOKENRING_TRANSPORT", "pigeons", "'pigeons' is no transport"),
        ("TOKENRING_AGREEMENT_TIMEOUT", "soon", "TOKENRING_AGREEMENT_TIMEOUT"),
        ("TOKENRING_TOPOLOGY", "gone.yaml", "gone.yaml"),
    ],
)
def test_an_environment_that_every_call_would_refuse_is_refused_at_once(
    variable: str,
    value: str,
    refusal: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, value)
    assert main(["doctor", "--out", str(tmp_path / "found")]) == 2
    assert refusal in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_the_first_rank_reads_the_topology_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRING_TOPOLOGY", "on the first node only.yaml")
    monkeypatch.setenv("RANK", "1")
    _check_environment()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigurationError, match="on the first node only"):
        _check_environment()


def arguments(**said: object) -> argparse.Namespace:
    return argparse.Namespace(**{"ranks": None, "quick": False, "skip": [], **said})


def test_parts_are_left_out_by_name_or_all_that_take_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert tuple(part.value for part in CheckupPart) == PARTS
    assert _plan(arguments(skip=["links"])).skip == {CheckupPart.LINKS}
    assert {part.value for part in _plan(arguments(skip=["times"])).skip} == {*PARTS} - {"exactness", "links"}


def test_what_cannot_be_checked_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigurationError, match="2 ranks or more"):
        _plan(arguments(ranks=1))
    for gpus in (0, 1):  # with one, ranks run on the processor
        monkeypatch.setattr("tokenring_xdit.devices.gpu_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr("tokenring_xdit.cli.doctor.gpu_count", lambda gpus=gpus: gpus)
        with pytest.raises(
            ConfigurationError, match="100000 ranks were asked for without a GPU each, and this machine"
        ):
            _plan(arguments(ranks=100_000))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="has files already: name a new folder"):
        _folder(tmp_path)


@pytest.mark.parametrize(
    ("said", "variables", "refusal"),
    [
        ({}, {}, "RANK is set without WORLD_SIZE, LOCAL_RANK, GROUP_RANK, MASTER_ADDR, MASTER_PORT, and torchrun sets"),
        ({"ranks": 3}, {"WORLD_SIZE": "2"}, "--ranks 3 was asked for and torchrun started 2: leave --ranks out"),
        ({}, {"WORLD_SIZE": "x"}, "WORLD_SIZE='x' is no number, as torchrun sets it"),
        ({}, {"WORLD_SIZE": "1"}, "torchrun started 1 rank, and schedules share a sequence between 2 or more"),
    ],
)
def test_torchrun_that_started_something_else_is_refused(
    said: dict[str, object], variables: dict[str, str], refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    others = {"LOCAL_RANK": "0", "GROUP_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"} if variables else {}
    for name, value in {**others, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=refusal):
        _plan_of_torchrun(arguments(**said))


def test_strategies_are_timed_on_all_ranks_that_torchrun_started() -> None:
    assert CheckupPlan(8, 0, quick=True).timed_ranks == 2
    assert CheckupPlan(8, 0, quick=True, nodes=2).timed_ranks == 8
