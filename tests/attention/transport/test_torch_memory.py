"""torch's symmetric memory, which is for GPUs: what it is asked for, and real ranks whose processes stand in for GPUs.

Tests marked ``cuda`` are of the real one, on as many GPUs as there are; nobody has run them yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from tests.attention import jobs
from tests.attention.jobs import Case
from tests.attention.test_watch import LATE, WORDS
from tests.attention.trouble import (
    late_among_gpus,
    run,
    struck_among_gpus,
    struck_on_gpus,
    struck_while_gpus_open_memory,
)
from tests.support.ranks import RankPool
from tests.support.schedules import names
from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.attention.transport import torch_memory
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.attention.transport.torch_memory import (
    OVERLAPPING_VARIABLE,
    CudaLanes,
    TorchMemory,
    reach,
    unsupported,
)
from tokenring_xdit.attention.waits import Broken

FP32 = 1e-5

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    "world_size", [2, 4, pytest.param(3, marks=pytest.mark.matrix), pytest.param(8, marks=pytest.mark.matrix)]
)
def test_every_schedule_is_exact(ranks: RankPool, world_size: int) -> None:
    forms = ("", ":wide=64") if world_size == 2 else (":chunks=2", ":wide=2", "", ":wide=64")
    schedules = names(any_ranks=world_size % 2 == 1)
    cases = [replace(uneven(world_size), schedule=name + forms[at % len(forms)]) for at, name in enumerate(schedules)]
    for of_rank in ranks.run(world_size, jobs.errors_over_gpus, cases):
        assert max(error[name] for error in of_rank for name in ("out", "lse")) <= FP32


def uneven(ranks: int) -> Case:
    return Case(
        tuple((3 + 5 * rank) % 11 for rank in range(ranks)),
        tuple((9 + 7 * rank) % 13 for rank in range(ranks)),
        scale=1.5, heads=4, kv_heads=2, batch=2, strided=True, home=5, hide=0.4, calls=2,
    )  # fmt: skip


@pytest.mark.parametrize("times", [20, pytest.param(100, marks=pytest.mark.matrix)])
def test_calls_are_replayed_time_after_time(ranks: RankPool, times: int) -> None:
    """What a graph holds is the same in each replay, signals too, and calls that are no part of it go between."""
    schedules = ["token_ring:chunks=2", "direct", "mesh:wide=64", "ring"]
    assert max(ranks.run(4, jobs.errors_of_replays_over_gpus, schedules, times)) <= FP32


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["kill", "stop"])
@pytest.mark.parametrize("phase", ["in the kernel", pytest.param("between keyed calls", marks=pytest.mark.matrix)])
def test_a_rank_that_is_struck_is_named(phase: str, kind: str, tmp_path: Path) -> None:
    """Streams that wait for it give up, and so do those of ranks that wait for them."""
    said = run(3, struck_among_gpus, phase, kind, folder=tmp_path, environment={TRANSPORT_VARIABLE: "symmetric"})
    for rank in (said[0], said[2]):
        first, failed, over, transport = rank.lines
        assert (first, transport) == ("right", "StreamedTransport")
        assert failed.startswith("CommunicationError: " + WORDS[kind].format(pid=said[1].pid)), failed
        assert over.startswith("CommunicationError: an earlier attention call on this process group failed")


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["kill", "cannot"])
def test_a_rank_that_does_not_open_memory_is_named(kind: str, tmp_path: Path) -> None:
    """The others are inside of torch then, which has no limit."""
    asked = {TRANSPORT_VARIABLE: "symmetric"}
    said = run(3, struck_while_gpus_open_memory, kind, folder=tmp_path, environment=asked, timeout=600.0)
    cannot = "rank 1 cannot reach the memory of the others: AcceleratorError: CUDA driver error: no peer access"
    words = cannot if kind == "cannot" else WORDS[kind].format(pid=said[1].pid)
    for rank in (said[0], said[2]):
        assert rank.last.startswith("CommunicationError: " + words), rank.last


@pytest.mark.ranks
def test_a_gpu_that_has_waited_too_long_blames_no_connection(tmp_path: Path) -> None:
    """Rank 1 is only slow."""
    asked = {TRANSPORT_VARIABLE: "symmetric", AGREEMENT_TIMEOUT_VARIABLE: "2"}
    for rank in run(2, late_among_gpus, folder=tmp_path, environment=asked, awaited=(0, 1)):
        first, failed = rank.lines
        assert first == "right"
        assert "the GPU of rank 0 gave up, as it does if another rank does not arrive within 2 s" in failed
        assert AGREEMENT_TIMEOUT_VARIABLE in failed and "connection" not in failed


# -- what torch is asked for -----------------------------------------------------------------------------------------


class Asked:
    """``torch.distributed._symmetric_memory``, which notes what it is asked for."""

    def __init__(self, world_size: int = 4) -> None:
        self.notes: list[object] = []
        self.pads: list[int] = []
        self._SymmetricMemory = SimpleNamespace(signal_pad_size=9216, empty_strided_p2p=self._empty)
        self.handle = mock.Mock(rank=1, world_size=world_size)

    def get_signal_pad_size(self) -> int:
        """As torch says without being asked for more."""
        return int(self._SymmetricMemory.signal_pad_size)

    def set_signal_pad_size(self, size: int) -> None:
        """As is asked for."""
        self._SymmetricMemory.signal_pad_size = size

    def _empty(self, size: tuple[int], stride: tuple[int], dtype: torch.dtype, device: torch.device) -> object:
        self.pads.append(self.get_signal_pad_size())
        self.notes.append(("empty", *size, dtype, device))
        return size[0]

    def rendezvous(self, tensor: object, group: object) -> Any:
        """A handle that notes what it is asked for."""
        self.notes.append(("rendezvous", tensor, group))
        return self.handle


@contextmanager
def memory(said: Callable[[str], list[str]] = lambda own: [own] * 4) -> Iterator[tuple[TorchMemory, Asked]]:
    """The areas of rank 1 of 4, and what they ask torch for."""
    asked = Asked()
    with (
        mock.patch.object(torch_memory, "symmetric_memory", return_value=asked),
        mock.patch.object(torch.cuda, "set_device"),
        mock.patch.object(torch.cuda, "synchronize", side_effect=lambda device: asked.notes.append("synchronize")),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=False),
    ):
        yield TorchMemory("group", 1, 4, GPU, said, lambda job: job()), asked  # type: ignore[arg-type]


def test_areas_are_made_once_nothing_is_under_way() -> None:
    with memory() as (area, asked):
        area.grow(5 << 20)
        assert asked.notes == ["synchronize", ("empty", 6 << 20, torch.uint8, GPU), ("rendezvous", 6 << 20, "group")]
        assert (area.size, area.numbers) == (6 << 20, 4096)
        assert asked.pads == [64 << 10]  # which memory of others is not asked for
        asked.set_signal_pad_size(1 << 20)  # another library's
        assert area.numbers == 4096
        area.put_signal(3, 7, 2.5)
        area.wait_signal(0, 8, 0.0)
        area.barrier(0, 60)
        area.memory(2)
    assert asked.handle.method_calls == [
        mock.call.put_signal(3, channel=7, timeout_ms=2500),
        mock.call.wait_signal(0, channel=8, timeout_ms=1),  # 0 is for ever
        mock.call.barrier(channel=0, timeout_ms=60000),
        mock.call.get_buffer(2, (6 << 20,), torch.uint8),
    ]


def test_areas_that_another_rank_cannot_make_are_made_by_none() -> None:
    with memory(lambda own: ["", "", "", "rank 3 cannot"]) as (area, asked):
        with pytest.raises(Broken, match="rank 3 cannot"):
            area.grow(1)
        assert area.size == 0
    with memory() as (area, asked):
        asked.handle.rank = 2
        with pytest.raises(Broken, match="torch takes rank 1 for rank 2 of 4"):
            area.grow(1)


def test_ranks_use_the_signals_that_all_of_them_have() -> None:
    """Torch's size is of each process: what is set after memory was made, or elsewhere, counts for none."""
    with memory(lambda own: [own, own, 7, own] if isinstance(own, int) else [own] * 4) as (area, asked):
        area.grow(1)
        assert area.numbers == 7
        assert asked.get_signal_pad_size() == 9216


def test_areas_that_a_graph_uses_stay() -> None:
    with memory() as (area, asked):
        area.grow(1)
        area.keep()
        area.grow(2)
        assert area._kept == []
        with mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=True):
            area.keep()
            with pytest.raises(Broken, match="cannot be made while a CUDA graph is captured: run the call once before"):
                area.grow(3)
        area.grow(3)
        assert area._kept == [(2 << 20, asked.handle)]


class Stream:
    """A stream that notes what it is asked for."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self._notes = name, notes

    def wait_stream(self, other: Stream) -> None:
        """Note it."""
        self._notes.append(f"{self.name} behind {other.name}")

    def wait_event(self, event: str) -> None:
        """Note it."""
        self._notes.append(f"{self.name} behind {event}")

    def record_event(self) -> str:
        """Note it, and name the point."""
        self._notes.append(f"mark of {self.name}")
        return f"mark of {self.name}"

    def query(self) -> bool:
        """Nothing has failed."""
        return True


@contextmanager
def lanes(*, capturing: bool = False) -> Iterator[tuple[CudaLanes, list[str]]]:
    notes: list[str] = []
    current = Stream("current", notes)
    made = iter(["lane", "other lane"])

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        notes.append(f"in {stream.name}")
        yield
        notes.append(f"out of {stream.name}")

    with (
        mock.patch.object(torch.cuda, "current_stream", return_value=current),
        mock.patch.object(torch.cuda, "Stream", side_effect=lambda device, priority: Stream(next(made), notes)),
        mock.patch.object(torch.cuda, "stream", inside),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=capturing),
        mock.patch.dict(CudaLanes._streams, clear=True),
    ):
        yield CudaLanes(GPU), notes


@pytest.mark.parametrize("capturing", [False, True])
def test_a_lane_goes_on_behind_the_current_stream_which_waits_for_all_of_them(capturing: bool) -> None:
    """All streams have to be waited for before a capture ends, and no call of a graph waits for one outside of it."""
    with lanes(capturing=capturing) as (each, notes):
        for _ in range(2):
            each.begin()
            mark = each.run("q", [lambda: notes.append("copy"), lambda: notes.append("tell")])
            mark.wait()
            each.end()
    call = ["lane behind current", "in lane", "copy", "tell", "mark of lane", "out of lane"]
    call += ["current behind mark of lane", "current behind lane"]
    outside = ["mark of current"], ["current behind mark of current"]
    assert notes == (call * 2 if capturing else [*call, *outside[0], *outside[1], *call, *outside[0]])


def test_a_gpu_that_has_given_up_breaks_the_next_call() -> None:
    failure = RuntimeError("CUDA error: launch failure\n")
    broken = pytest.raises(Broken, match=r"^CUDA error: launch failure$")
    with lanes() as (each, _), mock.patch.object(Stream, "query", side_effect=failure), broken:
        each.begin()


def test_devices_and_versions_that_cannot_are_told() -> None:
    assert unsupported(torch.device("mps")) == "it is for processors and NVIDIA's GPUs, not for mps"
    module = Asked()
    module.get_backend = lambda device: None  # type: ignore[attr-defined]
    with (
        mock.patch.object(torch_memory, "symmetric_memory", return_value=module),
        mock.patch.object(torch_memory, "symmetric_memory_lacks", return_value=[]),
    ):
        assert unsupported(GPU) is None
        with mock.patch.dict(os.environ, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}):
            assert unsupported(GPU) == "CUDA_DEVICE_MAX_CONNECTIONS=1 has streams wait for each other: leave it out"
        module.get_backend = lambda device: "NVSHMEM"  # type: ignore[attr-defined]
        assert unsupported(GPU) == "torch's symmetric memory is set to NVSHMEM, and CUDA is needed"
        with mock.patch.object(torch_memory, "symmetric_memory_lacks", return_value=["_SymmetricMemory.put_signal"]):
            assert unsupported(GPU) == (
                f"torch {torch.__version__} has no torch.distributed._symmetric_memory._SymmetricMemory.put_signal"
            )
        with mock.patch.object(torch.version, "hip", "7.0"):
            assert unsupported(GPU) == "it is for processors and NVIDIA's GPUs, not for ROCm"


def test_a_gpu_tells_whose_memory_it_does_not_reach() -> None:
    with (
        mock.patch.object(torch.cuda, "device_count", return_value=3),
        mock.patch.object(
            torch.cuda, "get_device_properties", side_effect=lambda at: SimpleNamespace(uuid=f"GPU-{at}")
        ),
        mock.patch.object(torch.cuda, "can_device_access_peer", side_effect=lambda one, other: other != 2),
    ):
        assert reach(GPU) == (0, "GPU-0", ("GPU-2",))


# -- on GPUs ---------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_gpus_are_exact_with_every_schedule(gpu_ranks: RankPool) -> None:
    cases = [replace(uneven(4), schedule=name + wide) for name in names() for wide in ("", ":wide=64")]
    for of_rank in gpu_ranks.run(4, jobs.errors_over_torch_memory, cases):
        assert max(error[name] for error in of_rank for name in ("out", "lse")) <= FP32


@pytest.mark.cuda
def test_gpus_replay_captured_calls_a_hundred_times(gpu_ranks: RankPool) -> None:
    schedules = ["token_ring", "direct", "mesh:wide=64"]
    for worst in gpu_ranks.run(4, jobs.errors_of_captured_over_torch_memory, schedules, 100):
        assert max(worst.values()) <= 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_gpus_do_not_wait_for_ever(kind: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    asked = {TRANSPORT_VARIABLE: "symmetric", OVERLAPPING_VARIABLE: "1"}
    said = run(3, struck_on_gpus, kind, folder=tmp_path, environment=asked)
    for rank in (said[0], said[2]):
        first, failed = rank.lines
        assert first == "StreamedTransport"
        assert failed.startswith("CommunicationError: " + WORDS[kind].format(pid=said[1].pid)), failed
        assert said[1].fault is not None and rank.times[1] - said[1].fault < LATE
