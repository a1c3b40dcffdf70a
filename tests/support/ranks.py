"""Worker ranks that live as long as the test session.

Importing xfuser takes ten seconds, so ranks are not started for each test: the pool keeps its
processes and gives each job a fresh world of the size it asks for, over gloo or, on GPUs, over NCCL.
Real processes, real sockets.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

_HOST = "127.0.0.1"


class RankFailure(Exception):
    """A job raised on some ranks.

    Attributes:
        errors: The exception of each rank, ``None`` where the rank finished.
    """

    def __init__(self, errors: list[BaseException | None], traces: list[str]) -> None:
        super().__init__("\n".join(f"[rank {r}] {t}" for r, t in enumerate(traces) if t))
        self.errors = errors


class RankPool:
    """Processes that run one function at a time as the ranks of a world.

    Args:
        backend: How they meet: ``gloo``, or ``nccl`` with a GPU each, which several may share.
    """

    def __init__(self, backend: str = "gloo") -> None:
        self._backend = backend
        self._context = multiprocessing.get_context("spawn")
        self._store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
        self._workers: list[tuple[Any, Connection]] = []
        self._jobs = 0

    def run(self, ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
        """Call ``function(*args)`` on ``ranks`` ranks at once.

        Args:
            ranks: Size of the world that the function finds initialised.
            function: A function of a module that the workers can import.
            *args: Its arguments, pickled.
            timeout: Seconds after which a hanging rank is killed and the test fails.

        Returns:
            What each rank returned.

        Raises:
            RankFailure: Some rank raised.
            TimeoutError: Some rank did not end.
        """
        while len(self._workers) < ranks:
            self._start()
        self._jobs += 1
        for rank in range(ranks):
            self._workers[rank][1].send((f"job{self._jobs}", rank, ranks, function, args))
        results: dict[int, tuple[Any, BaseException | None, str]] = {}
        connections = {self._workers[rank][1]: rank for rank in range(ranks)}
        while connections:
            ready = wait(list(connections), timeout)
            if not ready:
                hanging = sorted(connections.values())
                self.close()
                raise TimeoutError(f"ranks {hanging} did not end within {timeout} s")
            for connection in ready:
                rank = connections.pop(connection)  # type: ignore[arg-type]
                try:
                    results[rank] = connection.recv()  # type: ignore[union-attr]
                except EOFError:
                    results[rank] = (None, RuntimeError("the process died"), "the process died")
        outcome = [results[rank] for rank in range(ranks)]
        if any(isinstance(error, RuntimeError) and str(error) == "the process died" for _, error, _ in outcome):
            self.close()
        if any(error is not None for _, error, _ in outcome):
            raise RankFailure([e for _, e, _ in outcome], [t for _, _, t in outcome])
        return [value for value, _, _ in outcome]

    def close(self) -> None:
        """End all processes."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()
        self._workers.clear()

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        arguments = theirs, self._store.port, self._backend, len(self._workers)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers.append((process, ours))


def rank_device() -> torch.device:
    """Where a rank of the pool computes: on its GPU where the ranks met over NCCL."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _take_gpu(index: int) -> int:
    """Choose a rank's GPU.

    NCCL refuses two ranks of a host on one GPU. Ranks that call themselves hosts share it, and talk through sockets.
    """
    host, gpu = divmod(index, torch.cuda.device_count())
    os.environ.update(NCCL_HOSTID=f"host-{host}", NCCL_SOCKET_IFNAME="lo", GLOO_SOCKET_IFNAME="lo")
    torch.cuda.set_device(gpu)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is compared to 1e-5
    return gpu


def _serve(connection: Connection, port: int, backend: str, index: int) -> None:
    torch.set_num_threads(1)
    local_rank = _take_gpu(index) if backend == "nccl" else index
    store = dist.TCPStore(_HOST, port, is_master=False)
    while True:
        try:
            name, rank, ranks, function, args = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(local_rank))
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(name, store),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=60),
        )
        torch.manual_seed(1234)
        try:
            answer: tuple[Any, BaseException | None, str] = (function(*args), None, "")
        except Exception as error:
            answer = (None, error, traceback.format_exc())
        finally:
            dist.destroy_process_group()
        try:
            connection.send(answer)
        except Exception as error:
            connection.send((None, RuntimeError(repr(answer[1] or error)), answer[2]))
