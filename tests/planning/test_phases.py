"""Strategies of a language model's phases, simulated where what has to come out is known beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tokenring_xdit.planning import Machine, phases
from tokenring_xdit.planning.capacity import balanced_schedule
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.machine import Launches
from tokenring_xdit.planning.many_ranks import bounds
from tokenring_xdit.planning.phases import LanguagePhase, candidates, crossover, phase_of
from tokenring_xdit.planning.simulate import run, simulate
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule import Mask, build
from tokenring_xdit.schedule.lower.program import KernelCall
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import load_topology

INSTANT = Machine(1e18)
"""Nothing but links takes time."""

SLOW = load_topology("mesh:4:1mbit")

TURN = LayerTurn(4, past=6144, new=2048, heads=8, kv_heads=2, head_dim=64, element_bytes=2)


@pytest.mark.parametrize(
    ("past", "new", "phase"),
    [
        (0, 4096, LanguagePhase.PROMPT),
        (4096, 64, LanguagePhase.TURN),
        (4096, 16, LanguagePhase.STEP),
        (0, 1, LanguagePhase.STEP),
        (9, 1, LanguagePhase.STEP),
    ],
)
def test_phases(past: int, new: int, phase: LanguagePhase) -> None:
    assert phase_of(replace(TURN, past=past, new=new)) is phase


def test_what_is_sent_is_what_can_be_counted() -> None:
    sent = {one.name: one.sent for one in candidates(TURN, SLOW, INSTANT)}
    held, new = 6144 // 4, 2048 // 4
    key, query = 2 * 2 * 64 * 2, 8 * 64 * 2
    assert sent["keys"] == (3 * held + 3 * new) * key  # rank 0, whose new keys all others see
    assert sent["queries"] == 3 * new * (query + query + 8 * 4)
    assert sent["gather-kv"] == 3 * (held + new) * key


def test_on_slow_links_time_is_bytes() -> None:
    found = {one.name: one for one in candidates(TURN, SLOW, INSTANT)}
    rate = 1e6 / 8 * 1448 / 1514
    pairs = {"keys": (6144 + 2048) // 4 * 2 * 2 * 64 * 2, "queries": 512 * (2 * 8 * 64 * 2 + 32)}
    for name, size in pairs.items():
        assert found[name].seconds == pytest.approx(size / rate, rel=0.05)


def test_few_new_tokens_send_queries_and_many_send_keys() -> None:
    few, many = replace(TURN, past=8000, new=192), replace(TURN, past=192, new=8000)
    assert candidates(few, SLOW, INSTANT)[0].name == "queries"
    assert candidates(many, SLOW, INSTANT)[0].name == "keys"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_keys_win_from_a_share_on_that_the_heads_decide(kv_heads: int) -> None:
    """Queries and outputs cost as much as keys and values where new tokens are a share of kv_heads / heads."""
    found = crossover(replace(TURN, kv_heads=kv_heads), SLOW, INSTANT)
    assert found is not None
    assert found / 8192 == pytest.approx(kv_heads / 8, rel=0.12)


def test_a_step_gathers_outputs_and_no_keys() -> None:
    step = replace(TURN, past=8192, new=1)
    ours, theirs = candidates(step, SLOW, INSTANT)
    assert (ours.name, ours.ours, theirs.name, theirs.ours) == ("outputs", True, "gather-kv", False)
    assert ours.sent == 3 * 8 * 65 * 4
    assert theirs.seconds > 100 * ours.seconds


def test_a_whole_prompt_has_schedules_and_the_balanced_one_computes_least() -> None:
    prompt = replace(TURN, past=0, new=8192)
    fast = load_topology("mesh:4:10tbit")
    found = candidates(prompt, fast, Machine(1e11))
    assert found[0].name.startswith("near_far")
    assert found[0].ours
    assert not found[-1].ours
    keys = next(one for one in found if one.name == "keys")
    assert keys.seconds > 1.5 * found[0].seconds  # the last rank of contiguous shards has most to do


@pytest.mark.parametrize("window", [1, 100, 3000])
@pytest.mark.parametrize(("past", "new"), [(0, 4099), (3001, 1030)])
def test_of_a_window_pairs_and_keys_are_those_that_a_mask_leaves(window: int, past: int, new: int) -> None:
    turn = replace(TURN, past=past, new=new, window=window)
    owner = np.repeat(np.arange(8) % 4, [*turn.held, *turn.queries])
    queries, keys = np.arange(past, past + new)[:, None], np.arange(past + new)
    mask = (keys <= queries) & (keys > queries - window)
    for rank in range(4):
        rows = mask[owner[past:] == rank]
        for other in range(4):
            assert turn.plan.pairs(rank, other) == rows[:, owner == other].sum()
            assert turn.plan.seen[rank][other].tokens == rows[:, owner == other].any(axis=0).sum()


def test_of_a_window_only_a_halo_travels() -> None:
    found = candidates(replace(TURN, past=0, new=8192, window=1000), SLOW, INSTANT)
    assert [one.name for one in found] == ["keys", "queries", "gather-kv"]
    assert found[0].sent == 999 * 2 * 2 * 64 * 2


@pytest.mark.parametrize("network", ["star:8:1gbit", "mesh:8:1gbit"])
@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize(("past", "new"), [(0, 8192), (6000, 2000), (8192, 1)])
def test_what_many_ranks_take_at_least_is_never_more_than_a_simulation_takes(
    past: int, new: int, window: int | None, network: str
) -> None:
    turn, topology = LayerTurn(8, past, new, 8, 2, 64, window=window), load_topology(network)
    machine = replace(Machine.of_gpus(1e12), launches=Launches())
    simulated = {one.name: one for one in candidates(turn, topology, machine, patience=0.0)}
    if phase_of(turn) is LanguagePhase.STEP:
        ways = (Way.OUTPUTS, Way.GATHER_KV)
    else:
        ways = (Way.KEYS, Way.QUERIES, Way.GATHER_KV)
    found = bounds(turn, ways, topology, machine)
    assert {one.name for one in found} <= simulated.keys()
    for bound in found:
        assert bound.sent == simulated[bound.name].sent
        assert 0.3 * simulated[bound.name].seconds < bound.seconds <= 1.001 * simulated[bound.name].seconds


def test_of_many_ranks_few_schedules_are_timed_and_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_ALL_TIMED", 4)
    topology, machine = load_topology("star:5:10gbit"), Machine(1e12)
    turn = LayerTurn(5, 0, 20_011, 8, 2, 64)  # does not divide
    found = {one.name: one for one in candidates(turn, topology, machine)}
    schedules = found.keys() - {"keys", "queries", "gather-kv"}
    balanced = balanced_schedule()
    assert {balanced, f"{balanced}:chunks=2"} <= schedules
    problem = Problem.even(5, 20_011, 8, 64, kv_heads=2, element_bytes=2)
    for name in schedules:
        alone = simulate(build(name, 5, Mask.CAUSAL, 2), topology, problem, machine)
        assert (found[name].seconds, found[name].sent) == (alone.makespan, max(alone.sent))


@pytest.mark.parametrize("kv_heads", [8, 32])
@pytest.mark.parametrize("network", ["mesh:{}:400gbit", "star:{}:400gbit", "star:{}:25gbit"])
@pytest.mark.parametrize(
    "ranks", [2, 3, *(pytest.param(ranks, marks=pytest.mark.matrix) for ranks in (4, 5, 6, 8, 12, 16))]
)
def test_what_many_ranks_choose_is_as_fast_as_the_best_of_all_schedules(
    ranks: int, network: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology, machine = load_topology(network.format(ranks)), Machine.of_gpus(600e12)
    prompt = LayerTurn(ranks, 0, ranks * 8192, 32, kv_heads, 128)
    every = candidates(prompt, topology, machine)
    monkeypatch.setattr(phases, "_ALL_TIMED", 1)
    few = candidates(prompt, topology, machine)
    assert few[0].name == every[0].name or few[0].seconds <= 1.05 * every[0].seconds


@pytest.mark.parametrize("network", ["mesh:4:1gbit", "star:4:100mbit", "star:4:10gbit"])
def test_of_many_ranks_the_crossover_is_the_same_with_fewer_simulations(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology, machine = load_topology(network), Machine(1e12)
    every = crossover(TURN, topology, machine)
    monkeypatch.setattr(phases, "_ALL_TIMED", 3)
    assert every is not None
    assert crossover(TURN, topology, machine) == pytest.approx(every, abs=2 * 8192 / 256)


@pytest.mark.parametrize("way", list(Way))
def test_every_way_computes_each_pair_once(way: Way) -> None:
    """On one rank's worth of links and much to compute, the time of all ranks together is that of the pairs."""
    machine = Machine(1e9)
    pairs = 2048 * 6144 + 2048 * 2049 // 2
    programs = TURN.programs(way)
    calls = [step for program in programs for _, step in program.steps if isinstance(step, KernelCall)]
    assert sum(step.pairs for step in calls) == pairs
    seconds = 4.0 * 8 * 64 * pairs / 1e9
    assert run(way.value, programs, load_topology("mesh:4:1gbit"), machine).makespan >= seconds / 4


def test_who_has_no_patience_times_the_schedule_that_was_made_for_causal_masks() -> None:
    found = candidates(LayerTurn(4, 0, 4096, 8, 2, 64), load_topology("mesh:4:1gbit"), Machine(1e11), patience=0.0)
    assert {one.name for one in found} == {"keys", "queries", "gather-kv", balanced_schedule()}
