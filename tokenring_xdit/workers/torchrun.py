"""Ranks that ``torchrun`` started, on one node or several: rank 0 gives tasks to all.

Tasks and answers go through the store at which torchrun's processes join, not through the groups that are measured.
They are plain data, as whoever reaches that port may write there.
Rank 0 carries tasks out in a thread of its own, so that it hears of a failure while its own share hangs.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tokenring_xdit.errors import LaunchError
from tokenring_xdit.liveness import ProcessIdentity
from tokenring_xdit.workers.blame import in_words
from tokenring_xdit.workers.loop import Mailbox, serve
from tokenring_xdit.workers.messages import Answer, Failed, Progress, RankOutcome, Task
from tokenring_xdit.workers.pool import Pool
from tokenring_xdit.workers.state import Event, Heard, RequestAttempt
from tokenring_xdit.workers.wire import Wire

__all__ = ["TorchrunPool", "serve_torchrun"]

_PATIENCE = timedelta(seconds=60)
_FIRST_POLL, _POLL = 0.001, 0.05  # seconds between two looks at the store, which grow


@dataclass(frozen=True)
class _RemoteRank:
    rank: int
    identity: ProcessIdentity | None = None  # of a process that torchrun watches


class _StoreMailbox(Mailbox):
    """A rank's tasks and answers, which rank 0 counts from one."""

    def __init__(self, store: Any, rank: int, wire: Wire) -> None:
        self._tasks, self._rank, self._wire = PrefixStore("tasks", store.clone()), rank, wire
        self.store = PrefixStore("ranks", store)
        self._taken = 0

    def next(self) -> Task | None:
        """Wait for the next task."""
        self.number = self._taken = self._taken + 1
        while True:
            try:
                self._tasks.wait([_task(self._taken)], _PATIENCE)
                break
            except dist.DistStoreError:  # rank 0 takes its time
                continue
        command = self._wire.unpack(self._tasks.get(_task(self._taken)))
        return None if command is None else Task(self._taken, command)

    def answer(self, message: Answer | Failed | Progress) -> None:
        """Tell rank 0."""
        content = message if isinstance(message, Failed) else message.content
        self._tasks.set(_answer(max(1, self._taken), self._rank), self._wire.pack(content).decode())

    def cancelled(self) -> bool:
        """Never: nobody cancels these."""
        return False


def _task(number: int) -> str:
    return f"task/{number}"


def _answer(number: int, rank: int) -> str:
    return f"answer/{number}/{rank}"


def _join_store() -> Any:
    store, _, _ = next(iter(rendezvous("env://")))
    return store


def serve_torchrun(program: str, store: Any = None) -> None:
    """Carry out rank 0's tasks as the rank that the environment says, until there are no more.

    Args:
        program: As of :func:`tokenring_xdit.workers.loop.serve`; its ``MESSAGES`` are classes of commands and answers.
        store: Where the ranks join; ``None`` is what the environment says.
    """
    mailbox = _StoreMailbox(_join_store() if store is None else store, int(os.environ["RANK"]), Wire(program))
    try:
        serve(mailbox, program)
        dist.destroy_process_group()  # not after a failure: the others may not answer
    except Exception:  # which was told
        while mailbox.next() is not None:  # rank 0 ends, and torchrun ends the others
            pass


class TorchrunPool(Pool):
    """All ranks that torchrun started, for rank 0 to ask, in a ``with`` block.

    They are there once: after a failure torchrun has to start all of them anew.

    Args:
        program: As of :func:`serve_torchrun`.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._wire = Wire(program)
        self.workers = [_RemoteRank(rank) for rank in range(int(os.environ["WORLD_SIZE"]))]
        self._store: Any = None
        self._broken = False

    def __enter__(self) -> TorchrunPool:
        if self._store is not None:
            raise LaunchError(
                "torchrun's ranks cannot go on after a failure; what ran is recorded: start them again, with --resume"
            )
        signal.signal(signal.SIGTERM, _say_ended)
        store = _join_store()
        self._store = PrefixStore("tasks", store.clone())
        self._own_share = threading.Thread(target=serve_torchrun, args=(self._program, store), daemon=True)
        self._own_share.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._broken:
            self._store.set(_task(self._requests + 1), self._wire.pack(None).decode())
            self._own_share.join()

    def send(self, task: Task) -> None:
        """Give all ranks a task; who is killed or stopped is torchrun's to find."""
        self._store.set(_task(task.number), self._wire.pack(task.command).decode())

    def _ear(self, attempt: RequestAttempt[_RemoteRank]) -> Callable[[float], Event[_RemoteRank] | None]:
        heard = self._answers(attempt)
        return lambda seconds: next(heard)

    def _error(self, worker: _RemoteRank, outcome: RankOutcome) -> LaunchError:
        return LaunchError(f"rank {worker.rank} {in_words(outcome, 0)}")

    def _give_up(self) -> None:
        self._broken = True
        atexit.register(_end_at_once)

    def _answers(self, attempt: RequestAttempt[_RemoteRank]) -> Iterator[Heard[_RemoteRank] | None]:
        pause = _FIRST_POLL
        while True:
            for worker in attempt.waiting:
                key = _answer(self._requests, worker.rank)
                if self._store.check([key]):
                    content = self._wire.unpack(self._store.get(key))
                    failed = isinstance(content, Failed)
                    message = content if failed else Answer(self._requests, content)
                    yield Heard(worker, message, time.monotonic())
            yield None
            time.sleep(pause)
            pause = min(1.2 * pause, _POLL)


def _say_ended(number: int, frame: Any) -> None:
    raise LaunchError("a rank died, and torchrun ended the others: its messages say which")


def _end_at_once() -> None:
    """End without waiting for transfers that will never be over."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
