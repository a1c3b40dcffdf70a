"""Attention of real ranks over memory that they share, and over process groups, against softmax in fp64."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from tests.attention import jobs
from tests.attention.jobs import Case
from tests.support.ranks import RankPool
from tests.support.schedules import names
from tokenring_xdit.attention.transport.shared_memory import SharedMemory, unsupported
from tokenring_xdit.schedule import Mask

FP32 = 1e-5

PEAKY = 1.5


def worst(ranks: RankPool, transport: str, cases: list[Case]) -> float:
    found = ranks.run(len(cases[0].q_lengths), jobs.errors_over, transport, cases)
    return max(errors[name] for of_rank in found for errors in of_rank for name in ("out", "lse"))


@pytest.mark.parametrize("transport", ["symmetric", "process-groups"])
@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.matrix), 8])
def test_every_schedule_is_exact(ranks: RankPool, world_size: int, transport: str) -> None:
    even = Case((24,) * world_size, (24,) * world_size, scale=PEAKY, heads=4, kv_heads=4)
    uneven = Case(
        tuple((3 + 5 * rank) % 11 for rank in range(world_size)),
        tuple((9 + 7 * rank) % 13 for rank in range(world_size)),
        scale=PEAKY, heads=4, kv_heads=2, batch=2, strided=True, home=5, hide=0.4, calls=2,
    )  # fmt: skip
    schedules = names(any_ranks=world_size % 2 == 1)
    # On eight ranks each schedule in one form, by turns, of even and uneven shards.
    forms = [(options, case) for options in ("", ":chunks=2", ":wide=2", ":wide=64") for case in (even, uneven)]
    cases = [
        replace(case, schedule=name + options)
        for at, name in enumerate(schedules)
        for options, case in (forms if world_size < 8 else forms[at % len(forms) :][:1])
    ]
    assert worst(ranks, transport, cases) <= FP32
    causal = [replace(even, schedule=name, causal=True) for name in names(Mask.CAUSAL, any_ranks=world_size % 2 == 1)]
    assert worst(ranks, transport, causal) <= FP32


@pytest.mark.parametrize("transport", ["symmetric", "process-groups"])
def test_items_that_hide_different_keys(ranks: RankPool, transport: str) -> None:
    case = Case((12, 5, 0), (12, 8, 3), batch=3, home=4, hide=0.5, ragged=True, heads=4, kv_heads=2, calls=2)
    assert worst(ranks, transport, [replace(case, schedule=name) for name in ("token_ring", "direct:chunks=2")]) <= FP32


@pytest.mark.parametrize("transport", ["symmetric", "process-groups"])
def test_half_precision_with_partial_outputs_in_full(ranks: RankPool, transport: str) -> None:
    case = Case((48,) * 4, (48,) * 4, dtype=torch.bfloat16, heads=4, kv_heads=4, head_dim=32, calls=2)
    for errors in ranks.run(4, jobs.errors_over, transport, [replace(case, partial_dtype=torch.float32), case]):
        for error in errors:
            assert error["out"] <= max(error["single"], torch.finfo(torch.bfloat16).eps) * 2.5


@pytest.mark.parametrize("world_size", [2, *(pytest.param(n, marks=pytest.mark.matrix) for n in (3, 5))])
def test_a_hundred_calls_of_changing_shapes(ranks: RankPool, world_size: int) -> None:
    assert max(ranks.run(world_size, jobs.errors_of_many_calls, "symmetric", world_size, 100)) <= FP32


@pytest.mark.skipif(unsupported() is not None, reason="this machine shares no memory so")
def test_memory_of_destroyed_groups_goes(ranks: RankPool) -> None:
    for said, mapped in ranks.run(2, jobs.areas_of_groups, 4):
        assert set(said) == {"ran"}
        assert mapped[0] >= 2
        assert max(mapped) <= 4  # the last one's may still be there


def areas(ranks: int, size: int) -> list[SharedMemory]:
    """Areas of ranks that are threads of this process."""
    told: list[list[object]] = []
    arrived = threading.Barrier(ranks)
    lock = threading.Lock()

    def swap_of(rank: int) -> object:
        rounds = iter(range(10))

        def swap(value: object) -> list[object]:
            number = next(rounds)
            with lock:
                if len(told) <= number:
                    told.append([None] * ranks)
                told[number][rank] = value
            arrived.wait(120)
            return told[number]

        return swap

    found = [SharedMemory(rank, ranks, swap_of(rank)) for rank in range(ranks)]  # type: ignore[arg-type]
    threads = [threading.Thread(target=area.grow, args=(size,)) for area in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.skipif(unsupported() is not None, reason="this machine shares no memory so")
def test_what_one_rank_writes_the_others_see() -> None:
    one, other = areas(2, 5000)
    one.copy(one.memory(1)[100:104], torch.tensor([1, 2, 3, 4], dtype=torch.uint8))
    one.arrive(1, "kv", 77)
    one.tell(5, [1])
    assert other.memory(1)[100:104].tolist() == [1, 2, 3, 4]
    assert (other.came(0, "kv"), other.came(0, "q"), other.came(1, "kv"), one.came(1, "kv")) == (77, 0, 0, 0)
    assert (other.clock(0), one.clock(1)) == (5, 0)


@pytest.mark.skipif(unsupported() is not None, reason="this machine shares no memory so")
def test_who_sleeps_is_woken_and_does_not_sleep_over_what_was_told_before() -> None:
    one, other = areas(2, 5000)
    bell = other.bell()
    sleeper = threading.Thread(target=other.sleep, args=(bell, 300.0))
    sleeper.start()
    time.sleep(0.05)
    assert sleeper.is_alive()
    one.arrive(1, "q", 1)
    sleeper.join(120)
    assert not sleeper.is_alive()
    other.sleep(bell, 300.0)  # it has another number by now
    other.sleep(other.bell(), 0.001)  # and a limit
