"""Ranks of which one dies, stops, raises or stays away at a chosen moment, and what the others say then."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.gpus import as_gpus
from tests.support.reference import softmax_attention
from tokenring_xdit.attention import exchange, guarded, peers, token_ring_attention
from tokenring_xdit.attention import rounds as rounds_module
from tokenring_xdit.attention import watch as watch_module
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.attention.transport import choice, over_memory
from tokenring_xdit.attention.transport.opening import GroupTransports
from tokenring_xdit.attention.transport.process_groups import GlooTransport
from tokenring_xdit.attention.transport.shared_memory import SharedMemory
from tokenring_xdit.attention.transport.symmetric import SymmetricTransport
from tokenring_xdit.liveness import LIMIT_VARIABLE

LIMITS = {LIMIT_VARIABLE: "2", AGREEMENT_TIMEOUT_VARIABLE: "10", "GLOO_SOCKET_IFNAME": "lo"}

SEPARATE = "TEST_SEPARATE_HOSTS"
"""Entry of the environment: every rank takes itself for the only one of its machine."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.attention.trouble"])


@dataclass
class Said:
    """What became of one rank.

    Attributes:
        lines: What it told, in order: results, and errors as ``Type: message``.
        fault: When its fault happened, on the monotonic clock.
        times: When it told each line.
        pid: Its process.
    """

    lines: list[str] = field(default_factory=list)
    fault: float | None = None
    times: list[float] = field(default_factory=list)
    pid: int = 0

    @property
    def last(self) -> str:
        """What it told last."""
        return self.lines[-1] if self.lines else "nothing"


class Rank:
    """What a job has of its rank."""

    def __init__(self, rank: int, ranks: int, connection: Connection) -> None:
        self.rank, self.ranks, self._connection = rank, ranks, connection

    def say(self, line: str) -> None:
        """Tell the test a line."""
        self._connection.send(("line", line, time.monotonic()))

    def try_to(self, call: Callable[[], Any]) -> bool:
        """Say what becomes of a call: what it returns, or its error."""
        try:
            result = call()
        except BaseException as error:
            cause = f" [from {type(error.__cause__).__name__}]" if error.__cause__ is not None else ""
            self.say(f"{type(error).__name__}: {error}{cause}")
            return False
        self.say(f"{result}")
        return True

    def fault(self, kind: str) -> None:
        """Be killed, be stopped, or raise."""
        self._connection.send(("fault", "", time.monotonic()))
        if kind == "tell":
            return
        if kind == "raise":
            raise ValueError("a fault of rank 1")
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        if kind == "kill":
            time.sleep(60)


def run(
    ranks: int,
    job: Callable[..., None],
    *args: Any,
    folder: Path,
    environment: dict[str, str] | None = None,
    seconds: float = 120.0,
    timeout: float = 60.0,
    awaited: tuple[int, ...] | None = None,
) -> list[Said]:
    """Run a job on fresh ranks until all of ``awaited`` have ended, or ``seconds`` are over; then end all.

    Args:
        ranks: How many.
        job: Called with a :class:`Rank` and ``args``.
        *args: Pickled.
        folder: Where the ranks' store is.
        environment: Beside :data:`LIMITS`.
        seconds: A bound against hanging, far above the limits.
        timeout: Of the default group.
        awaited: All ranks but 1 by default.
    """
    file = folder / f"store-{time.monotonic_ns()}"
    said = [Said() for _ in range(ranks)]
    waiting: dict[Connection, int] = {}
    processes = []
    for rank in range(ranks):
        ours, theirs = _CONTEXT.Pipe()
        values = {**LIMITS, **(environment or {})}
        process = _CONTEXT.Process(target=_main, args=(rank, ranks, str(file), theirs, values, timeout, job, args))
        process.start()
        theirs.close()
        processes.append(process)
        said[rank].pid = process.pid or 0
        waiting[ours] = rank
    left = set(awaited if awaited is not None else (r for r in range(ranks) if r != 1))
    end = time.monotonic() + seconds
    while left and waiting and time.monotonic() < end:
        for connection in wait(list(waiting), 0.2):
            rank = waiting[connection]  # type: ignore[index]
            try:
                kind, line, when = connection.recv()  # type: ignore[union-attr]
            except (EOFError, OSError):
                del waiting[connection]  # type: ignore[arg-type]
                left.discard(rank)
                continue
            if kind == "fault":
                said[rank].fault = when
            else:
                said[rank].lines.append(line)
                said[rank].times.append(when)
    for rank, process in enumerate(processes):
        if rank in left and process.pid is not None:
            os.kill(process.pid, signal.SIGABRT)  # it shows where each of its threads is
            process.join(5)
        process.kill()
        process.join()
    assert not left, f"ranks {sorted(left)} hang after {seconds} s: {[each.lines for each in said]}"
    return said


def _main(
    rank: int,
    ranks: int,
    file: str,
    connection: Connection,
    environment: dict[str, str],
    timeout: float,
    job: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    faulthandler.enable(all_threads=True)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
    )
    if SEPARATE in environment:
        mock.patch.object(peers, "process_space", return_value=f"machine {rank}").start()
    job(Rank(rank, ranks, connection), *args)
    connection.close()
    os._exit(0)


# -- jobs ------------------------------------------------------------------------------------------------------------


def tensors(call: int, rank: int, length: int = 8) -> list[Tensor]:
    return [
        torch.randn(1, 2, length, 16, generator=torch.Generator().manual_seed(100 * call + 10 * rank + i))
        for i in range(3)
    ]


def attend(own: Rank, call: int, length: int = 8, **options: Any) -> str:
    """Attention over tensors that differ from call to call; how far off the result is."""
    q, k, v = tensors(call, own.rank, length)
    arguments = {"q": q, "k": k, "v": v, **options}
    out, _ = token_ring_attention(**arguments)
    keys, values = (torch.cat([tensors(call, r, length)[i] for r in range(own.ranks)], 2) for i in (1, 2))
    error = float((out - softmax_attention(q, keys, values)[0]).abs().max())
    return "right" if error < 1e-5 else f"WRONG by {error:.3g}"


def mistaken(own: Rank, name: str, keyed: bool, warm: int) -> None:
    """``warm`` good calls, one in which rank 1 passes what it should not, and a good one."""
    from tests.attention.test_checks import ENDS, MISTAKES

    mistakes = {**MISTAKES, **ENDS}[name][0]
    options: dict[str, Any] = {"cache_key": "same"} if keyed else {}
    for call in range(warm):
        own.try_to(lambda call=call: attend(own, call, **options))
    mine = {**options, **mistakes} if own.rank == 1 else options
    with mock.patch.dict(os.environ, mine.pop("environment", {})):
        own.try_to(lambda: attend(own, 50, **mine))
    own.try_to(lambda: attend(own, 51, **options))


def mistaken_in_turn(own: Rank) -> None:
    """A good call; then for each mistake one in which rank 1 makes it, and a good one."""
    from tests.attention.test_checks import MISTAKES

    own.try_to(lambda: attend(own, 0))
    for call, (mistakes, _) in enumerate(MISTAKES.values(), 1):
        mine = {**mistakes} if own.rank == 1 else {}
        with mock.patch.dict(os.environ, mine.pop("environment", {})):
            own.try_to(lambda call=call, mine=mine: attend(own, call, **mine))
        own.try_to(lambda call=call: attend(own, call))


PHASES = (
    "before the first call",
    "before the ranks agree",
    "before channels open",
    "while channels open",
    "while the ranks agree",
    "in the kernel",
    "between keyed calls",
)


def struck(own: Rank, phase: str, kind: str, length: int = 8) -> None:
    """Rank 1 is struck in some phase; what the others say."""
    keyed = {"cache_key": "same"} if phase == "between keyed calls" else {}
    mine = own.rank == 1

    def before(owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def struck_first(*args: Any, **kwargs: Any) -> Any:
            own.fault(kind)
            return original(*args, **kwargs)

        return mock.patch.object(owner, name, struck_first)

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        if mine:
            own.fault(kind)
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    if phase == "before the first call":
        if mine:
            time.sleep(0.5)  # gloo is connected, and nothing of this package is
            own.fault(kind)
        own.try_to(lambda: attend(own, 1))
        return
    where = {
        "before the ranks agree": (rounds_module, "tell_all"),
        "before channels open": (GroupTransports, "open"),
        "while channels open": (dist, "barrier"),
    }
    if phase in where and mine:
        with before(*where[phase]):
            own.try_to(lambda: attend(own, 1, length))
        return
    own.try_to(lambda: attend(own, 1, length, **keyed))
    if phase == "in the kernel":
        own.try_to(lambda: attend(own, 2, length, kernel=kernel))
    elif phase == "while the ranks agree" and mine:
        with before(rounds_module, "tell_all"):
            own.try_to(lambda: attend(own, 2, length))
    else:
        if phase == "between keyed calls" and mine:
            own.fault(kind)
        own.try_to(lambda: attend(own, 2, length, **keyed))
    own.try_to(lambda: attend(own, 3, length, **keyed))


def struck_among_gpus(own: Rank, phase: str, kind: str) -> None:
    """The same of ranks on GPUs, for which processes stand in, that reach each other's memory."""
    with as_gpus():
        struck(own, phase, kind)
    own.say(type(RingGroup.of().transport).__name__)


def struck_while_gpus_open_memory(own: Rank, kind: str) -> None:
    """Rank 1 is struck, or cannot open the memory of others, while those wait for it in torch."""

    def opening() -> None:
        if own.rank == 1:
            own.fault("tell" if kind == "cannot" else kind)
            raise torch.AcceleratorError("CUDA driver error: no peer access")

    with as_gpus(opening):
        own.try_to(lambda: attend(own, 1))


def late_among_gpus(own: Rank) -> None:
    """Rank 1 comes to its second call when the GPU of rank 0 has given up."""
    store = dist.distributed_c10d._get_default_store()
    with as_gpus():
        own.try_to(lambda: attend(own, 1, cache_key="same"))
        if own.rank == 1:
            store.get("rank 0 is over")
        own.try_to(lambda: attend(own, 2, cache_key="same"))
        store.set(f"rank {own.rank} is over", "")


def struck_on_gpus(own: Rank, kind: str) -> None:
    """Rank 1 is struck while the GPUs of the others wait for it; what they say inside of a guarded section."""
    device = torch.device("cuda", own.rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    q = torch.randn(1, 2, 64, 64, device=device, dtype=torch.bfloat16)

    def call() -> str:
        with guarded(None, "a call"):
            token_ring_attention(q, q, q, cache_key="same")
            torch.cuda.synchronize(device)
        return type(RingGroup.of().transport).__name__

    own.try_to(call)
    if own.rank == 1:
        own.fault(kind)
    own.try_to(call)


def struck_amid_messages(own: Rank, kind: str, after: float) -> None:
    """Rank 1 is struck ``seconds`` after it has posted messages that take longer than that."""
    q, k = torch.zeros(1, 2, 500_000, 16), torch.zeros(1, 2, 8, 16)  # 64 MB a block of queries
    options: dict[str, Any] = {"cache_key": "same", "kernel": cheap}
    own.try_to(lambda: token_ring_attention(q, k, k, **options)[0].shape[0])
    assert isinstance(RingGroup.of().transport, GlooTransport)
    original = GlooTransport.post

    def post(*args: Any) -> Any:
        works = original(*args)
        time.sleep(after)
        own.fault(kind)
        return works

    if own.rank == 1:
        mock.patch.object(GlooTransport, "post", post).start()
    own.try_to(lambda: token_ring_attention(q, k, k, **options)[0].shape[0])


def struck_amid_a_copy(own: Rank, kind: str) -> None:
    """Rank 1 is struck when it has written half of its second call's first block into the memory of rank 2."""
    own.try_to(lambda: attend(own, 1, cache_key="same"))
    assert isinstance(RingGroup.of().transport, SymmetricTransport)

    def copy(_: Any, place: Tensor, message: Tensor) -> None:
        place[: len(message) // 2] = message[: len(message) // 2]
        own.fault(kind)

    if own.rank == 1:
        mock.patch.object(SharedMemory, "copy", copy).start()
    own.try_to(lambda: attend(own, 2, cache_key="same"))
    own.try_to(lambda: attend(own, 3, cache_key="same"))


def carried(own: Rank, network: str | None) -> None:
    """What carries a call, where every rank may be in a network of its own."""
    space = network and f"{network} {own.rank}"
    with mock.patch.object(choice, "network_space", return_value=space) if network else nullcontext():
        own.try_to(lambda: attend(own, 1))
    own.say(type(RingGroup.of().transport).__name__)


def wants(own: Rank, mine: str, others: str) -> None:
    """Rank 1 asks for another transport than the others, and for the same afterwards, first one, then the other."""
    with mock.patch.dict(os.environ, {choice.TRANSPORT_VARIABLE: mine if own.rank == 1 else others}):
        own.try_to(lambda: attend(own, 1))
    for call, wanted in enumerate((choice.Wanted.SYMMETRIC, choice.Wanted.PROCESS_GROUPS), 2):
        with mock.patch.dict(os.environ, {choice.TRANSPORT_VARIABLE: wanted.value}):
            own.try_to(lambda call=call: attend(own, call, cache_key="same"))
        own.say(type(RingGroup.of().transport).__name__)


def cannot_open(own: Rank, when: str) -> None:
    """Rank 1 cannot reach the memory of the others, at first or when it grows."""
    original = SharedMemory._open

    def refused(self: SharedMemory, pid: int, *args: Any) -> Any:
        if pid != os.getpid():
            raise PermissionError(13, "Permission denied")
        return original(self, pid, *args)

    mock.patch.object(over_memory, "SMALLEST", 4096).start()
    if when == "when it grows":
        own.try_to(lambda: attend(own, 1, 2))
    if own.rank == 1:
        mock.patch.object(SharedMemory, "_open", refused).start()
    own.try_to(lambda: attend(own, 2, 100))
    own.say(type(RingGroup.of().transport).__name__)


def mapped(own: Rank) -> None:
    """How this process sees the memory that it shares."""
    own.try_to(lambda: attend(own, 1))
    lines = [line.split()[5:] for line in Path("/proc/self/maps").read_text().splitlines() if "tokenring" in line]
    own.say(f"{lines}")
    if own.rank == 1:
        own.fault("kill")
    own.try_to(lambda: attend(own, 2))


def cheap(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(q), torch.zeros(q.shape[:-1])


def out_of_step(own: Rank, calls: tuple[int, int]) -> None:
    """Rank 1 counts one call more, or makes another kind of call, and all go on afterwards."""
    first, second = calls
    own.try_to(lambda: attend(own, 1))
    if own.rank == 1:
        RingGroup.of().call += first
    if own.rank == 1 and second:
        own.try_to(lambda: exchange(None, own.rank, "names"))
    else:
        own.try_to(lambda: attend(own, 2))
    own.try_to(lambda: attend(own, 3))


def a_keyed_call_behind(own: Rank) -> None:
    """Rank 1 leaves out a call whose layout is known, as a caught error would: its next one has another number."""
    for call in (1, 2):
        own.try_to(lambda call=call: attend(own, call, cache_key="same"))
    if own.rank == 1:
        RingGroup.of().call += 1
    own.try_to(lambda: attend(own, 3, cache_key="same"))


def exchanged(own: Rank, kind: str) -> None:
    """Values of all ranks, where rank 1 cannot send its own, is struck, or calls attention instead."""
    own.try_to(lambda: exchange(None, ("value", own.rank), "names"))
    if own.rank == 1 and kind in {"kill", "stop"}:
        own.fault(kind)
    if own.rank == 1 and kind == "attention":
        own.try_to(lambda: attend(own, 1))
    else:
        value = (lambda: None) if own.rank == 1 and kind == "pickle" else "x" * 300_000
        own.try_to(lambda: [len(str(each)) for each in exchange(None, value, "names")])
    own.try_to(lambda: exchange(None, own.rank, "names"))


def stays_away(own: Rank) -> None:
    """Rank 1 does not come, and its process runs."""
    own.try_to(lambda: exchange(None, 0))
    if own.rank == 1:
        time.sleep(100)
    own.try_to(lambda: exchange(None, 0, "the prompts"))


def guarded_work(own: Rank, kind: str) -> None:
    """Rank 1 is struck inside a guarded section, while the others wait in a collective of their own."""

    def work() -> str:
        with guarded(None, "the pipeline call"):
            if kind == "everywhere":
                raise ValueError("a prompt has to be text")
            if own.rank == 1 and kind != "fine":
                time.sleep(0.5)
                own.fault(kind)
            dist.all_reduce(torch.ones(1))
            return "done"

    own.try_to(work)
    kind = "fine" if kind == "everywhere" else kind
    own.try_to(work)
    if own.rank == 1 and kind == "raise":
        time.sleep(100)


def another_world(own: Rank, folder: str) -> None:
    """Rank 1 raises inside a guarded section; then the ranks go on in a new world, while the watch still ends waits."""

    def work() -> None:
        with guarded(None, "the pipeline call"):
            if own.rank == 1:
                own.fault("raise")
            attend(own, 1)

    def abort(_: RingGroup) -> None:
        time.sleep(2)  # the wait of rank 0 has ended by now

    def summed() -> float:
        total = torch.ones(1)
        dist.all_reduce(total)
        return total.item()

    with mock.patch.object(RingGroup, "_abort", abort):
        own.try_to(work)
        dist.destroy_process_group()
        dist.init_process_group("gloo", init_method=f"file://{folder}/again", rank=own.rank, world_size=own.ranks)
        time.sleep(3)
        own.try_to(summed)


def stopped_for_a_while(own: Rank) -> None:
    """Rank 1 is stopped, and goes on after two seconds."""
    own.try_to(lambda: attend(own, 1))
    if own.rank == 1:
        subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
        own.fault("stop")
    own.try_to(lambda: attend(own, 2))


def ends_early(own: Rank) -> None:
    """Rank 2 takes ten seconds longer for what rank 0 waits for; rank 1 has ended by then, as programs end."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        calls.append(q)
        if own.rank == 2 and len(calls) == 3:  # the queries of rank 0
            time.sleep(9)
        out, lse = softmax_attention(q, k, v, scale=scale)
        return out.float(), lse.float()

    calls: list[Tensor] = []
    own.try_to(lambda: attend(own, 1))
    if own.rank != 1:
        own.try_to(lambda: attend(own, 2, kernel=kernel, schedule="direct"))
        return
    try:
        attend(own, 2, kernel=kernel, schedule="direct")
    finally:
        watch_module._leave()
        os._exit(0)
