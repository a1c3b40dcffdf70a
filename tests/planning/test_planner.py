from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from typing import Any

import diffusers
import pytest

from tests.support.schedules import names
from tokenring_xdit.errors import ConfigurationError, ScheduleError
from tokenring_xdit.hosts.models import model_shape
from tokenring_xdit.hosts.xfuser.choice import make_choice
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning import (
    NO_EFFECTS,
    Attention,
    Machine,
    Option,
    Problem,
    best_schedules,
    gathered,
    plan,
    simulate,
)
from tokenring_xdit.planning.options import ranked_splits
from tokenring_xdit.planning.planner import _Setting
from tokenring_xdit.schedule import Auto, Mask, build
from tokenring_xdit.topology import load_topology

COST = Machine(attend_rate=1e11, attend_overhead=5e-5, fold_rate=1e10, message_overhead=6e-5, latency=3e-4)


def weight(option: Option) -> tuple[int, int, int]:
    """What decides between splits that are as fast: flags, memory, bytes."""
    return option.dims.flags.count("--"), option.memory or 0, option.sent or 0


GPU = Machine.of_gpus(6e14)


@pytest.mark.parametrize("machine", [GPU, GPU.captured()], ids=["launched", "captured"])
@pytest.mark.parametrize(
    ("topology", "model", "size", "frames"),
    [
        ("hgx-h100", "flux", (1024, 1024), 1),
        ("4x4090", "flux", (512, 512), 1),
        pytest.param("hgx-h100", "sd3", (768, 1024), 1, marks=pytest.mark.matrix),
        pytest.param("hgx-h100", "wan-1.3b", (832, 480), 17, marks=pytest.mark.matrix),
    ],
)
def test_gpus_are_given_no_schedule_that_is_slower_than_one_in_its_widest_form(
    topology: str, model: str, size: tuple[int, int], frames: int, machine: Machine
) -> None:
    """It launches least, of which a schedule in whole blocks tells nothing."""
    network, shape = load_topology(topology), model_shape(model)
    ranks = len(network.hosts)
    problem = Problem.even(ranks, shape.tokens(*size, frames), shape.heads, shape.head_dim, element_bytes=2)
    best = best_schedules(problem, network, machine)[0].seconds
    assert best is not None
    for name in names():
        for form in (name, f"{name}:wide={ranks}"):
            verified = build(form, ranks, heads=shape.heads)
            if verified.takes_heads(shape.heads, shape.heads):
                assert best <= 1.02 * simulate(verified, network, problem, machine).makespan, form


@pytest.mark.parametrize(
    ("ranks", "tokens", "heads"), [(1, 64, 4), (2, 100, 3), (4, 4096, 8), (5, 1001, 5), (6, 999, 6), (8, 4096, 6)]
)
def test_every_split_is_legal_or_says_why_not(ranks: int, tokens: int, heads: int) -> None:
    network = load_topology(f"mesh:{max(2, ranks)}:1gbit")
    options = plan(Problem.even(ranks, tokens, heads, 64), network, COST)
    times = [option.seconds for option in options if option.seconds is not None]
    assert times[1:] == sorted(times[1:])
    as_fast = [option for option in options if option.seconds is not None and option.seconds <= 1.02 * min(times)]
    assert options[0] in as_fast  # differences that a simulation cannot tell
    assert weight(options[0]) == min(map(weight, as_fast))
    assert [bool(option.why) for option in options] == [True] + [False] * (len(options) - 1)
    assert len({str(option.dims) for option in options}) == len(options)
    assert options.count(next(option for option in options if option.dims == ParallelDims())) == 1
    for option in options:
        split = option.dims
        assert split.ranks in {1, ranks}
        if option.refusal is not None:
            assert option.seconds is None
            uneven = tokens % ranks and split.tokenring == 1
            assert heads % split.ulysses or uneven
            continue
        flags = dict(zip(split.flags.split()[::2], split.flags.split()[1::2], strict=True))
        said = flags.get("--tokenring_schedule")
        choice = make_choice(split.tokenring, said, split.ring if split.tokenring > 1 else None)
        if split.tokenring > 1:
            assert choice is not None
            assert choice == make_choice(split.tokenring, split.schedule, split.ring)
            built = build(choice.sequence_schedule, ranks // split.ulysses, heads=heads // split.ulysses)
            assert built.schedule.world_size == choice.sequence_ranks == ranks // split.ulysses
        assert len(flags) == split.flags.count("--")
        given = {name.removeprefix("--").removesuffix("_degree"): value for name, value in flags.items()}
        assert [int(given.get(name, 1)) for name in ("ulysses", "tokenring", "ring")] == [
            split.ulysses, split.tokenring, split.ring,
        ]  # fmt: skip
    degrees = {(o.dims.ulysses, o.dims.tokenring, o.dims.ring) for o in options}
    divisors = [d for d in range(1, ranks + 1) if ranks % d == 0]
    assert degrees == {(1, 1, 1)} | {(u, t, ranks // u // t) for u in divisors for t in divisors if ranks // u % t == 0}


H100 = Machine.of_gpus(4e14)
DIRECT = ParallelDims(tokenring=4, schedule="direct")


def test_of_what_a_simulation_cannot_tell_apart_the_simplest_is_taken() -> None:
    options = plan(Problem.even(8, 16896, 24, 128, element_bytes=2), load_topology("hgx-h100"), H100)
    fastest = min(option.seconds or math.inf for option in options)
    as_fast = [option for option in options if (option.seconds or math.inf) <= 1.02 * fastest]
    assert len(as_fast) > 1
    assert weight(options[0]) == min(map(weight, as_fast))
    assert f"one of {len(as_fast)} within 2% of the fastest" in options[0].why
    assert options[0].dims.flags == "--ulysses_degree 8"


def test_small_pictures_on_slow_links_are_for_one_rank() -> None:
    problem, network = Problem.even(4, 100, 4, 64), load_topology("mesh:4:10mbit")
    best, *others = plan(problem, network, COST)
    assert (best.dims, best.dims.flags, str(best.dims), best.sent) == (ParallelDims(), "", "one rank", 0)
    assert others[0].seconds is not None
    assert best.seconds is not None
    assert best.why == f"the fastest: the next, {others[0].dims}, takes {others[0].seconds / best.seconds - 1:.0%} more"
    assert best.seconds == COST.attend(Attention(4.0 * 100 * 100 * 4 * 64, 4, 100)) + COST.call_overhead
    assert best.memory == 100 * 4 * 64 * 4


@pytest.mark.parametrize(
    ("changes", "taken", "why"),
    [
        ((), 0, "the fastest: the next, token_ring 4, takes 10% more"),
        (({"seconds": 1.019},), 1, "fewest flags"),
        (({"seconds": 1.021},), 0, "the fastest"),
        (({"seconds": 1.01, "dims": DIRECT, "memory": 9},), 1, "least memory"),
        (({"seconds": 1.01, "dims": DIRECT, "sent": 9},), 1, "fewest bytes sent"),
        (
            ({"seconds": 1.01, "dims": ParallelDims(tokenring=4, schedule="direct"), "messages": 1},),
            0,
            "send and hold alike",
        ),
        (({"seconds": 1.0, "refusal": "no", "dims": ParallelDims(ulysses=4)},), 0, "the fastest"),
    ],
)
def test_what_decides(changes: tuple[dict[str, Any], ...], taken: int, why: str) -> None:
    first = Option(ParallelDims(tokenring=4, schedule="ring"), 1.0, 0.0, 0.0, 10, 10, 10)
    second = Option(ParallelDims(tokenring=4, schedule="token_ring"), 1.1, 0.0, 0.0, 10, 10, 10)
    options = [first, second]
    for change in changes:
        options[1] = dataclasses.replace(second, **change)
        if options[1].refusal:
            options[1] = dataclasses.replace(options[1], seconds=None)
    best = ranked_splits(options)[0]
    assert dataclasses.replace(best, why="") == options[taken]
    assert why in best.why or options[1].refusal


@pytest.mark.parametrize(
    "network", ["mesh:4:100mbit", "star:4:100mbit", "ring:4:100mbit", "two-level:2x2:1gbit:100mbit"]
)
def test_the_best_is_as_good_as_any_schedule_by_itself(network: str) -> None:
    problem, where = Problem.even(4, 4096, 8, 64), load_topology(network)
    options = best_schedules(problem, where, COST)
    best = options[0]
    singles = [simulate(build(n, 4, heads=8), where, problem, COST).makespan for n in names()]
    assert best.seconds is not None
    assert min(option.seconds or 0.0 for option in options) <= min(singles) * (1 + 1e-9)
    assert best.seconds <= min(singles) * 1.02  # differences that a simulation cannot tell
    assert best.seconds == simulate(build(best.dims.sequence_schedule, 4, heads=8), where, problem, COST).makespan


@pytest.mark.parametrize("network", ["mesh:4:100mbit", "star:4:100mbit", "two-level:2x2:1gbit:100mbit"])
@pytest.mark.parametrize("heads", [5, pytest.param(8, marks=pytest.mark.e2e)])
def test_pieces_that_are_not_tried_would_not_have_been_faster(network: str, heads: int) -> None:
    problem, where = Problem.even(4, 1024, heads, 64), load_topology(network)
    options = best_schedules(problem, where, COST)
    best = min(option.seconds or math.inf for option in options)
    tried = {option.dims.sequence_schedule for option in options}
    left_out = [f"{name}:chunks={n}" for name in names() for n in (2, 4, 8) if f"{name}:chunks={n}" not in tried]
    times = [simulate(build(name, 4, heads=heads), where, problem, COST).makespan for name in left_out]
    assert min(times) >= best * 0.95  # differences that a simulation cannot tell


@pytest.mark.parametrize("network", ["mesh:4:100mbit", "star:4:100mbit"])
def test_under_a_causal_mask_what_nobody_needs_does_not_count(network: str) -> None:
    problem, where = Problem.even(4, 4096, 8, 64), load_topology(network)
    options = best_schedules(problem, where, COST, mask=Mask.CAUSAL)
    for option in options:
        built = build(option.dims.sequence_schedule, 4, Mask.CAUSAL, 8)
        assert option.seconds == simulate(built, where, problem, COST).makespan
    assert options[0].sent is not None
    assert options[0].sent < (best_schedules(problem, where, COST)[0].sent or 0)


def test_under_a_causal_mask_equal_shares_win_where_kernels_are_the_limit() -> None:
    problem, where = Problem.even(5, 1 << 16, 6, 128, kv_heads=3, element_bytes=2), load_topology("hgx-h100")
    first, *others = best_schedules(problem, where, H100, mask=Mask.CAUSAL)
    assert first.dims.sequence_schedule.startswith("near_far")
    derived = [o.seconds or 0.0 for o in others if not o.dims.sequence_schedule.startswith("near_far")]
    assert (first.seconds or math.inf) < 0.7 * min(derived)  # 2.5 pairs of blocks on each rank instead of 4.5 on one
    assert not any(o.dims.sequence_schedule.startswith("near_far") for o in best_schedules(problem, where, H100))


@pytest.mark.parametrize("ranks", [80, 128])
def test_of_very_many_ranks_only_plans_are_simulated_whose_transfers_take_turns(ranks: int) -> None:
    setting = _Setting(
        ParallelDims(tokenring=ranks),
        Problem.even(ranks, ranks, 8, 16),
        load_topology("mesh:2:1gbit"),
        COST,
        NO_EFFECTS,
    )
    assert {str(name) for name in setting.whole()} == {"mesh", "ring", "token_ring"}
    inside = {str(name.in_nodes()[0]) for name in setting.nodes_left_open() if ranks // name.in_nodes()[1] > 64}
    assert inside <= {"token_ring"}
    few = {str(name) for name in dataclasses.replace(setting, problem=Problem.even(8, 8, 8, 16)).whole()}
    assert few == {*names(any_ranks=True), "heads:peers=1"}
    fewer_heads = {str(name) for name in dataclasses.replace(setting, problem=Problem.even(7, 7, 3, 16)).whole()}
    assert few - fewer_heads == {"heads", "heads:peers=1", "mesh"}


def test_where_queries_are_few_they_travel_and_where_keys_have_few_heads_these_do() -> None:
    network = load_topology("mesh:4:100mbit")
    few = best_schedules(Problem.even(4, 4096, 8, 64, query_tokens=512), network, COST)[0]
    grouped = best_schedules(Problem.even(4, 4096, 8, 64, kv_heads=1), network, COST)[0]
    assert few.dims.sequence_schedule.startswith("direct:") or few.dims.sequence_schedule == "direct"
    assert grouped.dims.sequence_schedule.startswith("direct_kv")


def test_only_schedules_that_leave_keys_at_home_where_that_is_asked_for() -> None:
    problem = Problem.even(4, 4096, 8, 64)
    found = best_schedules(problem, load_topology("ring:4:100mbit"), COST, keys_stay_whole=True)
    assert found
    assert all(build(option.dims.sequence_schedule, 4, heads=8).keys_stay_whole for option in found)


def test_nodes_get_a_ring_of_keys_between_them() -> None:
    problem = Problem.even(8, 4096, 8, 64)
    found = best_schedules(problem, load_topology("two-level:2x4:1gbit:100mbit"), COST, nodes=2)
    assert all(option.dims.sequence_schedule.startswith("hierarchical") for option in found)


def test_xfuser_s_own_needs_equal_shards_of_queries_and_keys_and_a_model_that_it_takes() -> None:
    network = load_topology("mesh:4:1gbit")
    few = plan(Problem.even(4, 4096, 8, 64, query_tokens=510), network, COST)
    refused = {str(option.dims): option.refusal or "" for option in few if option.dims.tokenring == 1}
    assert refused.keys() == {"one rank", "xfuser-ring 4", "ulysses 4", "ulysses 2 x xfuser-ring 2"}
    assert refused.pop("one rank") == ""
    assert all("these queries do not divide by 4 ranks" in refusal for refusal in refused.values())
    lumina = model_shape("lumina2")
    options = plan(Problem.even(4, 4096, 24, 96, kv_heads=8), network, COST, xfuser_ring=lumina.ring)
    refused = {str(option.dims): option.refusal or "" for option in options if option.seconds is None}
    assert refused == dict.fromkeys(
        ("xfuser-ring 4", "ulysses 2 x xfuser-ring 2"), "xfuser refuses this model over its Ring"
    )


def test_too_few_hosts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="5 ranks do not fit"):
        plan(Problem.even(5, 64, 4, 16), load_topology("mesh:4:1gbit"), COST)


def test_memory_of_all_keys_grows_with_the_ranks() -> None:
    gathers = [gathered(Problem.even(n, 128 * n, 4, 16))[0].peak for n in (5, 6, 8, 12)]
    step = 2 * 2 * 128 * 4 * 16 * 4
    assert [after - before for before, after in itertools.pairwise(gathers)] == [step, 2 * step, 4 * step]


DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux": ("FluxTransformer2DModel", {"heads": "num_attention_heads", "head_dim": "attention_head_dim"}),
    "flux2": ("Flux2Transformer2DModel", {"heads": "num_attention_heads", "head_dim": "attention_head_dim"}),
    "pixart-sigma": ("PixArtTransformer2DModel", {"heads": "num_attention_heads", "calls": "num_layers"}),
    "qwen-image": ("QwenImageTransformer2DModel", {"heads": "num_attention_heads", "calls": "num_layers"}),
    "lumina2": ("Lumina2Transformer2DModel", {"heads": "num_attention_heads", "kv_heads": "num_kv_heads"}),
    "cogvideox-2b": ("CogVideoXTransformer3DModel", {"heads": "num_attention_heads", "calls": "num_layers"}),
    "wan-14b": ("WanTransformer3DModel", {"heads": "num_attention_heads", "head_dim": "attention_head_dim"}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {"heads": "num_attention_heads"}),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_models_have_the_heads_that_diffusers_gives_them(name: str) -> None:
    transformer, fields = DEFAULTS[name]
    defaults = inspect.signature(getattr(diffusers, transformer).__init__).parameters
    assert {field: getattr(model_shape(name), field) for field in fields} == {
        field: defaults[parameter].default for field, parameter in fields.items()
    }


def test_tokens_of_pictures_and_videos() -> None:
    assert model_shape("flux").tokens(1024, 1024) == 4096 + 512
    assert model_shape("wan-14b").tokens(1280, 720, 81) == 75600
    with pytest.raises(ConfigurationError, match=r"size 1000x1024: the width has to be a multiple of 16"):
        model_shape("flux").tokens(1000, 1024)
    with pytest.raises(ConfigurationError, match=r"size 1024x1000: the height has to be a multiple of 16"):
        model_shape("flux").tokens(1024, 1000)
    with pytest.raises(ConfigurationError, match="makes pictures"):
        model_shape("flux").tokens(1024, 1024, 5)
    with pytest.raises(ConfigurationError, match="Did you mean 'flux'"):
        model_shape("fluxx")


def test_auto_is_told_apart_from_schedules() -> None:
    assert Auto.parse("token_ring") is None
    assert Auto.parse("auto") == Auto()
    assert str(Auto()) == "auto"
    assert Auto.parse("auto:nodes=2,measure=yes") == Auto(measure=True, nodes=2)
    assert str(Auto(measure=True, nodes=2)) == "auto:measure=true,nodes=2"
    for wrong, message in (
        ("auto:", "'auto' has no option ''. Known: measure, nodes"),
        ("auto:node=2", "Did you mean 'nodes'"),
        ("auto:nodes=0", "nodes=0 of schedule 'auto' has to be a whole number from 1 to 4096"),
        ("auto:measure=maybe", "measure=maybe of schedule 'auto' has to be true or false"),
        ("auto:nodes=2,nodes=2", "write each option once, as nodes=VALUE"),
    ):
        with pytest.raises(ScheduleError, match=message):
            Auto.parse(wrong)
