"""What the worker ranks run in the attention tests."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.ranks import rank_device
from tests.support.reference import relative_error, softmax_attention
from tests.support.schedules import names
from tokenring_xdit.attention import DeviceKeyMask, token_ring_attention
from tokenring_xdit.schedule import Mask, Schedule, verify


@dataclass(frozen=True)
class Case:
    """One attention problem, sharded."""

    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    schedule: str = "token_ring"
    kernel: str | None = None
    dtype: torch.dtype = torch.float32
    batch: int = 1
    heads: int = 3
    kv_heads: int = 3
    head_dim: int = 16
    causal: bool = False
    scale: float | None = None
    home: int = 0
    strided: bool = False
    partial_dtype: torch.dtype | None = None
    calls: int = 1
    hide: float = 0.0  # share of the keys that is hidden
    ragged: bool = False  # whether the items of the batch hide different ones
    on_device: bool = False  # whether the host does not look at which


def problem(case: Case) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """The same global tensors on every rank."""
    generator = torch.Generator().manual_seed(hash(case.q_lengths) % 2**31)

    def make(heads: int, length: int) -> Tensor:
        shape = (case.batch, length, heads, case.head_dim)
        tensor = torch.randn(shape, generator=generator).to(rank_device(), case.dtype).transpose(1, 2)
        return tensor if case.strided else tensor.contiguous()

    q, k, v = (
        make(heads, sum(lengths))
        for heads, lengths in (
            (case.heads, case.q_lengths),
            (case.kv_heads, case.kv_lengths),
            (case.kv_heads, case.kv_lengths),
        )
    )
    home = (make(case.kv_heads, case.home), make(case.kv_heads, case.home)) if case.home else None
    return q, k, v, home


def hidden(case: Case) -> tuple[Tensor | None, Tensor | None]:
    """Which keys, and which of those at home, count: bool ``[B or 1, S]``."""
    if not case.hide:
        return None, None
    generator = torch.Generator().manual_seed(3)
    rows = case.batch if case.ragged else 1
    real, home = (
        torch.rand(rows, length, generator=generator) >= case.hide for length in (sum(case.kv_lengths), case.home)
    )
    if len(case.kv_lengths) > 1:
        real[0, : case.kv_lengths[0]] = False  # the first rank has nothing to show the first item
    real[:, -1] = True
    return real.to(rank_device()), home.to(rank_device()) if case.home else None


def errors(case: Case) -> dict[str, Any]:
    """Run a case; this rank's errors against fp64, and those of torch's own attention on one device."""
    rank = dist.get_rank()
    q, k, v, home = problem(case)
    q_part = slice(sum(case.q_lengths[:rank]), sum(case.q_lengths[: rank + 1]))
    kv_part = slice(sum(case.kv_lengths[:rank]), sum(case.kv_lengths[: rank + 1]))
    all_k, all_v = (
        torch.cat([t, h], dim=2) if h is not None else t for t, h in zip((k, v), home or (None, None), strict=True)
    )
    visible = None
    real, home_real = hidden(case)
    if case.causal:
        keys, queries = (torch.arange(t.shape[2], device=t.device) for t in (k, q))
        visible = keys <= queries[:, None]
    if real is not None:
        visible = torch.cat([real, *([] if home_real is None else [home_real])], dim=1)[:, None, None, :]
    expected, expected_lse = softmax_attention(q, all_k, all_v, scale=case.scale, visible=visible)
    expected, expected_lse = expected[:, :, q_part], expected_lse[:, :, q_part]
    # The kernel's own error: the best any one-device implementation of this dtype does.
    single = torch.nn.functional.scaled_dot_product_attention(
        q,
        all_k,
        all_v,
        attn_mask=visible if real is not None else None,
        is_causal=case.causal,
        scale=case.scale,
        enable_gqa=True,
    )[:, :, q_part]
    shards = (q[:, :, q_part], k[:, :, kv_part], v[:, :, kv_part])
    copies = [t.clone() for t in shards]
    for _ in range(case.calls):
        out, lse = token_ring_attention(
            *shards,
            schedule=case.schedule,
            kernel=case.kernel,
            causal=case.causal,
            scale=case.scale,
            key_mask=_mask(case, None if real is None else real[:, kv_part]),
            joint_kv=home,
            joint_mask=_mask(case, home_real),
            partial_dtype=case.partial_dtype,
        )
    assert out.shape == shards[0].shape and out.dtype == case.dtype and lse.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(shards, copies, strict=True)), "inputs were changed"
    if not out.numel():
        return {"out": 0.0, "lse": 0.0, "single": 0.0}
    scale = softmax_attention(q, all_k, all_v, scale=case.scale, visible=visible)[0].abs().max()
    return {
        "out": ((out.double() - expected).abs().max() / scale).item(),
        "lse": relative_error(lse, expected_lse),
        "single": ((single.double() - expected).abs().max() / scale).item(),
    }


def _mask(case: Case, real: Tensor | None) -> Tensor | DeviceKeyMask | None:
    return DeviceKeyMask(real) if case.on_device and real is not None else real


def errors_of_replays_with_masks(schedules: list[str], stale: bool) -> float:
    """The worst of calls that are recorded and replayed with other inputs, and other masks if they are not stale."""
    from tests.graphs.operators import OperatorRecording

    rank, size, worst = dist.get_rank(), dist.get_world_size(), 0.0
    generator = torch.Generator().manual_seed(7)
    inputs, real = [torch.zeros(2, 4, 8, 8) for _ in range(3)], torch.ones(2, 8, dtype=torch.bool)
    mask = DeviceKeyMask(real)

    def call(schedule: str) -> Tensor:
        return token_ring_attention(*inputs, schedule=schedule, key_mask=mask, cache_key="recorded")[0]

    for schedule in schedules:
        call(schedule)
        recording = OperatorRecording(lambda schedule=schedule: call(schedule))
        for hide in (0.5, 0.0, 0.9):
            whole = [3 * torch.randn(2, 4, 8 * size, 8, generator=generator) for _ in range(3)]
            seen = torch.rand(2, 8 * size, generator=generator) >= hide
            seen[0, :8] = hide == 0  # the first rank has nothing to show the first item
            seen[:, -1] = True
            for own, tensor in zip(inputs, whole, strict=True):
                own.copy_(shard(tensor))
            if not stale:
                real.copy_(seen.chunk(size, dim=1)[rank])
            recording.replay()
            expected = softmax_attention(*whole, visible=seen[:, None, None])[0].chunk(size, dim=2)[rank]
            worst = max(worst, relative_error(recording.output, expected))
    return worst


def errors_of(cases: list[Case]) -> list[dict[str, Any]]:
    """Run one case after the other in the same world, whose connections take seconds to open on GPUs."""
    return [errors(case) for case in cases]


def errors_over(transport: str, cases: list[Case]) -> list[dict[str, Any]]:
    """The same over a transport that is asked for, which all ranks have to take."""
    from tokenring_xdit.attention.groups import RingGroup
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
    from tokenring_xdit.attention.transport.symmetric import SymmetricTransport

    with mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: transport}):
        found = errors_of(cases)
    shared = isinstance(RingGroup.of().transport, SymmetricTransport)
    assert shared == (transport != "process-groups"), f"{transport} was asked for, and shared is {shared}"
    return found


def errors_over_gpus(cases: list[Case]) -> list[dict[str, Any]]:
    """The same over memory of GPUs, for which processes stand in."""
    from tests.support.gpus import as_gpus
    from tokenring_xdit.attention.groups import RingGroup
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
    from tokenring_xdit.attention.transport.streamed import StreamedTransport

    with as_gpus(), mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: "symmetric"}):
        found = errors_of(cases)
    assert isinstance(RingGroup.of().transport, StreamedTransport)
    return found


def errors_of_replays_over_gpus(schedules: list[str], replays: int) -> float:
    """The worst of calls that are recorded and replayed with other inputs, and of others between their replays."""
    from tests.graphs.operators import OperatorRecording
    from tests.support.gpus import as_gpus, recorded
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE

    rank, size, worst = dist.get_rank(), dist.get_world_size(), 0.0
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.zeros(1, 4, 8, 8) for _ in range(3)]

    def call(schedule: str) -> Tensor:
        return token_ring_attention(*inputs, schedule=schedule, cache_key="recorded")[0]

    with as_gpus(), mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: "symmetric"}):
        for schedule in schedules:
            call(schedule)
        graphs = {each: OperatorRecording(lambda each=each: call(each), recorded) for each in schedules}
        for number in range(replays):
            whole = [3 * torch.randn(1, 4, 8 * size, 8, generator=generator) for _ in range(3)]
            for own, tensor in zip(inputs, whole, strict=True):
                own.copy_(shard(tensor))
            schedule = schedules[number % len(schedules)]
            graphs[schedule].replay()
            found = [graphs[schedule].output]
            if number % 10 == 0:
                found.append(call(schedules[0]))
            expected = softmax_attention(*whole)[0].chunk(size, dim=2)[rank]
            worst = max(worst, *(relative_error(each, expected) for each in found))
    return worst


def errors_of_many_calls(transport: str, seed: int, calls: int) -> float:
    """The worst of many calls over one group, whose shapes, schedules and masks change from one to the next."""
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE

    dice, size, worst = random.Random(seed), dist.get_world_size(), 0.0
    with mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: transport}):
        for _ in range(calls):
            schedule = dice.choice(names(any_ranks=True))
            length = dice.choice((1, 5, 24, 200))
            case = Case(
                q_lengths=tuple(dice.randint(1, length) for _ in range(size)),
                kv_lengths=tuple(dice.randint(1, length) for _ in range(size)),
                schedule=f"{schedule}:chunks={dice.randint(1, 3)},wide={dice.choice((1, 2, 64))}",
                batch=dice.randint(1, 2),
                heads=4,
                kv_heads=dice.choice((2, 4)),
                head_dim=dice.choice((8, 20)),
                scale=1.5,
                home=dice.choice((0, 3)),
                hide=dice.choice((0.0, 0.4)),
            )
            worst = max(worst, errors(case)["out"])
    return worst


def areas_of_groups(count: int) -> tuple[list[str], list[int]]:
    """What calls say on groups that are made and destroyed, and how many areas of memory are mapped in each."""
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE

    said, mapped = [], []
    with mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: "symmetric"}):
        for _ in range(count):
            group = dist.new_group()
            said.append(call_with({}, group=group))
            gc.collect()
            mapped.append(Path("/proc/self/maps").read_text().count("memfd:tokenring"))
            dist.destroy_process_group(group)
    return said, mapped


@contextmanager
def symmetric_on_gpus() -> Iterator[None]:
    """Ask for memory of GPUs that reach each other's, or of one that ranks share, and see that it is taken."""
    from tokenring_xdit.attention.groups import RingGroup
    from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
    from tokenring_xdit.attention.transport.streamed import StreamedTransport
    from tokenring_xdit.attention.transport.torch_memory import OVERLAPPING_VARIABLE

    with mock.patch.dict(os.environ, {TRANSPORT_VARIABLE: "symmetric", OVERLAPPING_VARIABLE: "1"}):
        yield
    assert isinstance(RingGroup.of().transport, StreamedTransport), "the log says why it was not taken"


def errors_over_torch_memory(cases: list[Case]) -> list[dict[str, Any]]:
    """:func:`errors_of` on GPUs over torch's symmetric memory."""
    with symmetric_on_gpus():
        return errors_of(cases)


def errors_of_captured_over_torch_memory(schedules: list[str], replays: int) -> dict[str, float]:
    """:func:`errors_of_captured` over torch's symmetric memory."""
    with symmetric_on_gpus():
        return errors_of_captured(schedules, replays)


def errors_of_captured(schedules: list[str], replays: int = 2) -> dict[str, float]:
    """Calls that are captured as CUDA graphs, and replayed with other inputs."""
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs = [torch.zeros(1, 4, 64, 64, device=rank_device(), dtype=torch.bfloat16) for _ in range(3)]
    generator = torch.Generator().manual_seed(3)
    worst = {}
    for schedule in schedules:
        graph = torch.cuda.CUDAGraph()
        for _ in range(2):  # the ranks agree, and open their channels
            token_ring_attention(*inputs, schedule=schedule, cache_key="captured")
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's watchdog has calls of its own
            out, _ = token_ring_attention(*inputs, schedule=schedule, cache_key="captured")
        for _ in range(replays):
            whole = [torch.randn(1, 4, 64 * size, 64, generator=generator).to(out) for _ in range(3)]
            for own, tensor in zip(inputs, whole, strict=True):
                own.copy_(shard(tensor))
            graph.replay()
            error = relative_error(out, softmax_attention(*whole)[0].chunk(size, dim=2)[rank])
            worst[schedule] = max(worst.get(schedule, 0.0), error)
    return worst


def with_mask(mask: Tensor) -> None:
    """Attention over twelve keys a rank, with a mask."""
    q, k, v = torch.randn(3, 1, 2, 12, 8)
    token_ring_attention(q, k, v, key_mask=mask)


def without_keys() -> tuple[Tensor, Tensor]:
    """Attention in which no rank has a key."""
    return token_ring_attention(torch.randn(1, 2, 4, 8), torch.empty(1, 2, 0, 8), torch.empty(1, 2, 0, 8))


def shard(tensor: Tensor, size: int | None = None, rank: int | None = None) -> Tensor:
    """This rank's equal share of the tokens."""
    size = dist.get_world_size() if size is None else size
    rank = dist.get_rank() if rank is None else rank
    return tensor.chunk(size, dim=2)[rank]


def error_with_large_scores() -> float:
    """Scores of several hundred, and of minus several hundred, in one row."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 32, 8, generator=generator) for _ in range(3))
    q, k = q * 30, k * 30
    out, _ = token_ring_attention(shard(q), shard(k), shard(v))
    return relative_error(out, shard(softmax_attention(q, k, v)[0]))


def nan_reaches_every_rank() -> bool:
    """A NaN in one rank's values, which every query sees."""
    q, k, v = (torch.ones(1, 1, 4, 8) for _ in range(3))
    if dist.get_rank() == 1:
        v[0, 0, 2, 3] = float("nan")
    out, _ = token_ring_attention(q, k, v)
    return bool(out[..., 3].isnan().all()) and bool(out[..., :3].isfinite().all())


def buffers_after_calls() -> tuple[int, int]:
    """Bytes of buffers that are kept after one call and after three."""
    from tokenring_xdit.attention.groups import RingGroup

    def count() -> int:
        return RingGroup.of().transport.buffers.size

    q, k, v = (torch.randn(1, 2, 8, 8) for _ in range(3))
    token_ring_attention(q, k, v)
    first = count()
    for _ in range(2):
        token_ring_attention(q, k, v)
    return first, count()


def bytes_held_in_a_call(length: int) -> int:
    """Most bytes that the first call of TokenRing has allocated at once."""
    from tokenring_xdit.bench.instruments import peak_of

    q, k, v = (torch.randn(1, 4, length, 32) for _ in range(3))
    return peak_of(lambda: token_ring_attention(q, k, v, schedule="token_ring"), torch.device("cpu"))[0]


def error_in_strided_groups() -> float:
    """Two groups of two, {0, 2} and {1, 3}, at once, with a kernel given as a function."""
    rank = dist.get_rank()
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    generator = torch.Generator().manual_seed(rank % 2)
    q, k, v = (torch.randn(1, 2, 12, 8, generator=generator) for _ in range(3))
    calls = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        calls.append(q.shape)
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    parts = [shard(t, 2, rank // 2) for t in (q, k, v)]
    out, _ = token_ring_attention(*parts, group=groups[rank % 2], kernel=kernel)
    assert len(calls) == 2
    return relative_error(out, shard(softmax_attention(q, k, v)[0], 2, rank // 2))


def bytes_of(case: Case) -> int:
    """Bytes that this rank sends in one call."""
    from tokenring_xdit.attention import bytes_sent

    before = bytes_sent()
    errors(case)
    return bytes_sent() - before


def waited_for_a_late_rank(late: float) -> tuple[float, float]:
    """Seconds that this rank waits in a call in which the last one's kernel takes ``late`` longer.

    Returns:
        What is kept of it, and what a trace of the same call says.
    """
    from tokenring_xdit.attention import record_trace
    from tokenring_xdit.attention.groups import all_seconds_waited
    from tokenring_xdit.schedule import Activity

    last = dist.get_rank() == dist.get_world_size() - 1
    generator = torch.Generator().manual_seed(dist.get_rank())
    q, k, v = (torch.randn(1, 2, 24, 8, generator=generator) for _ in range(3))

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        if last:
            time.sleep(late)
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    token_ring_attention(q, k, v)  # connections are there from now on
    before = all_seconds_waited()
    with record_trace() as trace:
        token_ring_attention(q, k, v, kernel=kernel)
    after = all_seconds_waited()
    assert before is not None
    assert after is not None
    waits = [span for span in trace.spans if span.activity is Activity.WAIT and span.what != "agreement"]
    return after - before, sum(span.end - span.start for span in waits)


def error_of_a_cut_schedule() -> float:
    """Queries in two pieces of tokens, returned piece by piece, and keys in two pieces of heads."""
    from tokenring_xdit.schedule import (
        Action,
        Attend,
        Channel,
        Exchange,
        Merge,
        Piece,
        Transfer,
        kv_block,
        o_block,
        q_block,
    )

    halves = (Piece(0, 2), Piece(1, 2))
    programs = []
    for rank in range(2):
        peer = 1 - rank
        program: list[Action] = [
            Exchange(
                Channel.Q,
                recvs=(Transfer(q_block(peer, tokens=half), peer),),
                sends=(Transfer(q_block(rank, tokens=half), peer),),
            )
            for half in halves
        ]
        program += [Attend(q_block(rank), kv_block(rank, heads=half)) for half in halves]
        for half in halves:
            program.append(Attend(q_block(peer, tokens=half), kv_block(rank)))
            program.append(
                Exchange(
                    Channel.O,
                    recvs=(Transfer(o_block(rank, peer, tokens=half), peer),),
                    sends=(Transfer(o_block(peer, rank, tokens=half), peer),),
                )
            )
        program += [Merge(o_block(rank, peer, tokens=half)) for half in halves]
        programs.append(tuple(program))
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 4, 18, 8, generator=generator) for _ in range(3))
    schedule = verify(Schedule("cut", 2, tuple(programs)))
    out, _ = token_ring_attention(shard(q), shard(k), shard(v), schedule=schedule)
    return relative_error(out, shard(softmax_attention(q, k, v)[0]))


def errors_in_batches(cases: list[Case]) -> list[float]:
    """Each exchange as one batch, its receives in their turn: as on NCCL, here on gloo."""
    from tokenring_xdit.attention.groups import RingGroup

    errors_of(cases)  # opens the channels
    assert not RingGroup.of().transport.in_order
    RingGroup.of().transport.in_order = True
    return [float(found["out"]) for found in errors_of(cases)]


def error_of_schedules(schedules: list[Schedule]) -> float:
    """The worst of some schedules, each run twice."""
    generator = torch.Generator().manual_seed(5)
    length = 13 * dist.get_world_size()
    q, k, v = (torch.randn(1, 6, length, 8, generator=generator) for _ in range(3))
    earlier = torch.arange(length) <= torch.arange(length)[:, None]
    worst = 0.0
    for schedule in schedules:
        causal = schedule.mask is Mask.CAUSAL
        expected = shard(softmax_attention(q, k, v, visible=earlier if causal else None)[0])
        for _ in range(2):
            out, _ = token_ring_attention(shard(q), shard(k), shard(v), schedule=verify(schedule), causal=causal)
            worst = max(worst, relative_error(out, expected))
    return worst


def error_with_changing_lengths() -> float:
    """Lengths that change on all ranks, then on one only, and come back."""
    generator = torch.Generator().manual_seed(4)
    worst = 0.0
    for lengths in ((8, 8, 8), (7, 7, 7), (8, 8, 7), (8, 8, 8), (1, 9, 7)):
        q, k, v = (torch.randn(1, 2, sum(lengths), 8, generator=generator) for _ in range(3))
        mine = slice(sum(lengths[: dist.get_rank()]), sum(lengths[: dist.get_rank() + 1]))
        out, _ = token_ring_attention(q[:, :, mine], k[:, :, mine], v[:, :, mine])
        worst = max(worst, relative_error(out, softmax_attention(q, k, v)[0][:, :, mine]))
    return worst


def agreements_in_three_calls() -> tuple[int, int]:
    """How often the ranks agree in three calls of one shape, with a layout key and without."""
    from tokenring_xdit.attention import rounds

    counts = []
    tell_all = rounds.tell_all
    for key in ("same", None):
        count = 0

        def counting(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            return tell_all(*arguments)

        rounds.tell_all = counting
        try:
            for _ in range(3):
                tensor = torch.randn(1, 2, 8, 8)
                token_ring_attention(tensor, tensor, tensor, cache_key=key)
        finally:
            rounds.tell_all = tell_all
        counts.append(count)
    return counts[0], counts[1]


def errors_by_turns(case: Case) -> list[float]:
    """This rank's errors of calls in inference mode and outside of it, by turns on one group."""
    found = []
    for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad(), torch.inference_mode()):
        with mode:
            found.append(float(errors(case)["out"]))
    return found


def call_with(
    changes: dict[int, dict[str, Any]], cache_key: str | None = None, group: dist.ProcessGroup | None = None
) -> str:
    """A call that some ranks make differently; what each rank is told."""
    from tokenring_xdit.errors import TokenRingError

    mine = changes.get(dist.get_rank(), {})
    shape = (1, mine.get("heads", 2), mine.get("length", 8), mine.get("head_dim", 16))
    q, k, v = (torch.randn(shape[: mine.get("dims", 4)]).to(mine.get("dtype", torch.float32)) for _ in range(3))
    k.requires_grad_(mine.get("gradients", False))
    options = {name: mine[name] for name in ("schedule", "kernel", "causal", "scale", "partial_dtype") if name in mine}
    try:
        token_ring_attention(q, k, v, cache_key=cache_key, group=group, **options)
    except TokenRingError as error:
        return f"{type(error).__name__}: {error}"
    return "ran"


def call_between_good_calls(changes: dict[int, dict[str, Any]], cache_key: str | None) -> tuple[str, str, str]:
    """A good call, then one that some ranks make differently, then a good one again."""
    import os

    from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE

    os.environ[AGREEMENT_TIMEOUT_VARIABLE] = "6"
    try:
        return call_with({}, cache_key), call_with(changes, cache_key), call_with({}, cache_key)
    finally:
        del os.environ[AGREEMENT_TIMEOUT_VARIABLE]


def call_to_which_one_rank_does_not_come() -> str:
    """All ranks of a group with a timeout call attention, then all but rank 1; what those are told."""
    group = dist.new_group(timeout=timedelta(seconds=6))
    call_with({}, group=group)
    told = "stayed away" if dist.get_rank() == 1 else call_with({}, group=group)
    dist.barrier()  # rank 1 is there all the time: its connections are not what ends the call
    return told


def call_whose_kernel_fails_on_one_rank() -> tuple[str, str]:
    """Rank 1's kernel fails in the middle of a call; what each rank is told then, and on a second try."""
    from tokenring_xdit.errors import TokenRingError

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        if dist.get_rank() == 1:
            raise MemoryError("the card is full")
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    answers = []
    for attempt in (kernel, None):
        tensor = torch.randn(1, 2, 8, 8)
        try:
            token_ring_attention(tensor, tensor, tensor, kernel=attempt)
        except (TokenRingError, MemoryError) as error:
            answers.append(f"{type(error).__name__}: {error}")
        else:
            answers.append("ran")
    return answers[0], answers[1]


def call_in_lopsided_groups() -> tuple[str, str]:
    """Groups that leave ranks in different numbers of groups: the whole world works, a part of it is refused."""
    from tokenring_xdit.errors import TokenRingError

    pair, other = dist.new_group([0, 1]), dist.new_group([0, 2])
    tensor = torch.randn(1, 2, 8, 8)
    token_ring_attention(tensor, tensor, tensor)
    del pair
    if dist.get_rank() in (0, 2):
        try:
            token_ring_attention(tensor, tensor, tensor, group=other)
        except TokenRingError as error:
            return "ran", f"{type(error).__name__}: {error}"
    return "ran", "ran"
