"""The rank processes of a sweep where ``torchrun`` started them, on one node or several: rank 0 gives the orders.

Orders and answers go through the store at which torchrun's processes meet, not through the groups that are measured.
They are JSON, as whoever reaches that port may write there.
Rank 0 carries orders out in a thread of its own, so that it hears of a failure while its own share hangs.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.profiler import ProfilerActivity, profile

from tokenring_xdit.bench.letters import read_letter, write_letter
from tokenring_xdit.bench.rank import serve
from tokenring_xdit.errors import LaunchError, TokenRingError
from tokenring_xdit.workers.messages import Failed

__all__ = ["World", "obey"]

_PATIENCE = timedelta(seconds=60)
_POLL = 0.05  # seconds


class _StoreMailbox:
    """A rank's orders and answers; see :class:`tokenring_xdit.workers.mailbox.Mailbox`."""

    def __init__(self, store: Any, rank: int) -> None:
        self._store, self._rank, self._number = store, rank, 0

    def next(self) -> Any:
        """Wait for the next order."""
        self._number += 1
        while True:
            try:
                self._store.wait([_order(self._number)], _PATIENCE)
                return read_letter(self._store.get(_order(self._number)))
            except dist.DistStoreError:  # rank 0 takes its time
                continue

    def answer(self, message: Any) -> None:
        """Tell rank 0."""
        self._store.set(_answer(self._number, self._rank), write_letter(message))


def _order(number: int) -> str:
    return f"order/{number}"


def _answer(number: int, rank: int) -> str:
    return f"answer/{number}/{rank}"


def _meet() -> Any:
    store, _, _ = next(iter(rendezvous("env://")))
    return store


def obey(store: Any = None) -> None:
    """Carry out rank 0's orders as the rank that the environment says, until there are no more."""
    store = _meet() if store is None else store
    mailbox = _StoreMailbox(PrefixStore("bench", store.clone()), int(os.environ["RANK"]))
    try:
        serve(mailbox, PrefixStore("ranks", store))
        dist.destroy_process_group()  # not after a failure: the others may not answer
    except Exception as error:
        where = None if isinstance(error, TokenRingError) else traceback.format_exc()
        failed = Failed(kind=type(error).__name__, message=str(error), time=time.time(), traceback=where)
        mailbox.answer(failed)
        mailbox.next()  # rank 0 ends, and torchrun ends the others


class World:
    """All ranks that torchrun started, for rank 0 to give orders to, in a ``with`` block.

    They are there once: after a failure torchrun has to start all of them anew.

    Attributes:
        ranks: How many.
    """

    def __init__(self) -> None:
        self.ranks = int(os.environ["WORLD_SIZE"])
        self._store: Any = None
        self._number = 0
        self._broken = False

    def __enter__(self) -> World:
        if self._store is not None:
            raise LaunchError(
                "torchrun's ranks cannot go on after a failure; what ran is recorded: start them again, with --resume"
            )
        signal.signal(signal.SIGTERM, _say_ended)
        with profile(activities=[ProfilerActivity.CPU]):
            pass  # torch's profiler wants to be met in the main thread first
        store = _meet()
        self._store = PrefixStore("bench", store.clone())
        self._own_share = threading.Thread(target=obey, args=(store,), daemon=True)
        self._own_share.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._broken:
            self._store.set(_order(self._number + 1), write_letter(None))
            self._own_share.join()

    def ask(self, order: Any, timeout: float) -> list[Any]:
        """As :meth:`tokenring_xdit.workers.crew.Crew.ask`."""
        self._number += 1
        self._store.set(_order(self._number), write_letter(order))
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        try:
            while len(answers) < self.ranks:
                for rank in set(range(self.ranks)) - set(answers):
                    key = _answer(self._number, rank)
                    if self._store.check([key]):
                        answers[rank] = read_letter(self._store.get(key))
                        if isinstance(answers[rank], Failed):
                            raise LaunchError(f"rank {rank} failed: {answers[rank]}")
                if time.monotonic() > deadline:
                    missing = sorted(set(range(self.ranks)) - set(answers))
                    raise LaunchError(f"ranks {missing} did not answer within {timeout:g} seconds")
                time.sleep(_POLL)
        except LaunchError:
            self._broken = True
            atexit.register(_end_at_once)
            raise
        return [answers[rank] for rank in range(self.ranks)]


def _say_ended(number: int, frame: Any) -> None:
    raise LaunchError("a rank died, and torchrun ended the others: its messages say which")


def _end_at_once() -> None:
    """End without waiting for transfers that will never be over."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
