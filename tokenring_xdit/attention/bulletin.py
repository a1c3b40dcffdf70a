"""What the ranks of a program tell each other beside their messages: plain data in torch's default store.

A wait of gloo cannot be interrupted, and a rank that failed may have no peer to tell. What a rank posts here is read
by every other one within a fraction of a second, whatever its caller waits for. A thread of its own talks to the store,
because the rank that keeps it may be stopped, and then it never answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from tokenring_xdit.plain import from_bytes, to_bytes

__all__ = ["Bulletin", "Notice"]

log = logging.getLogger(__name__)

INTERVAL = 0.25
"""Seconds between two looks at the store."""

_HURRY = 0.005
"""Seconds between two looks while a caller waits for something in there; they grow to ``INTERVAL / 5``."""

_LONGEST_SENTENCE = 2000


@dataclass(frozen=True)
class Notice:
    """Why ranks should not wait for one of them.

    Attributes:
        rank: Global rank that tells it.
        sentence: What happened, and to which rank.
        group: Key of the group concerned; ``None`` for every group inside ``scope``.
        scope: Global ranks concerned.
        call: Number of the call concerned, where those in other calls need not care; ``None`` where the group is over.
        section: Whether ``call`` counts guarded sections instead of calls.
        refused: Whether the rank refused a call, and nothing broke.
    """

    rank: int
    sentence: str
    group: str | None
    scope: tuple[int, ...]
    call: int | None = None
    section: bool = False
    refused: bool = False


class Bulletin:
    """This rank's access to the store. Nothing here waits for it, or raises where it is gone.

    Attributes:
        found: What others have left under the keys that were asked for.
        heard: When the store answered last, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.heard = time.monotonic()
        self._news: deque[Notice] = deque()
        self._wanted: set[str] = set()
        self._followed: tuple[str, ...] = ()
        self._outbox: deque[tuple[str, Any] | Notice] = deque()
        self._in_hurry = 0
        self._next_notice = 0
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._stop = False
        self._origin: Any = dist.distributed_c10d._get_default_store()
        self._thread = threading.Thread(
            target=self._run, args=(dist.get_rank(),), name="tokenring-bulletin", daemon=True
        )
        self._thread.start()

    def put(self, key: str, value: Any) -> None:
        """Leave a value, soon."""
        self._outbox.append((key, value))
        self._wake.set()

    def publish(self, notice: Notice) -> None:
        """Tell all ranks, soon."""
        self._outbox.append(notice)
        self._wake.set()

    def flush(self, seconds: float) -> None:
        """Wait until everything is posted, at most this long: when a process ends, unposted messages are lost."""
        end = time.monotonic() + seconds
        with self._idle:
            while self._outbox and self._thread.is_alive() and (left := end - time.monotonic()) > 0:
                self._idle.wait(left)

    def want(self, keys: Iterable[str]) -> None:
        """Look for values until they are in :attr:`found`."""
        self._wanted |= set(keys) - self.found.keys()
        self._wake.set()

    def follow(self, keys: Iterable[str]) -> None:
        """Look for values again and again, as they change."""
        self._followed = tuple(keys)

    def hurry(self, more: int) -> None:
        """One more caller, or one less, waits for something in the store."""
        with self._idle:
            self._in_hurry += more
        self._wake.set()

    def news(self) -> list[Notice]:
        """What ranks have told since the last time."""
        found = []
        while self._news:
            found.append(self._news.popleft())
        return found

    def close(self, seconds: float = 1.0) -> None:
        """Tell what is left to tell, and end the thread."""
        self._stop = True
        self._wake.set()
        self._thread.join(seconds)

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self, rank: int) -> None:
        number, said = 0, False
        while True:
            try:
                # A connection of its own: others wait for an answer on theirs, and keep it.
                store = self._origin.clone()
                store.set_timeout(timedelta(seconds=5))
                # A store may outlive a world: what this rank's earlier ones left there is not read.
                number = number or store.add(f"tokenring/worlds/{rank}", 1)
                self._talk(PrefixStore(f"tokenring/{number}", store))
            except RuntimeError as error:
                if not (said or self._stop):
                    log.debug("the default store does not answer, and is asked again: %s", error)
                said = True
            if self._stop:
                return
            self._wake.wait(INTERVAL)

    def _talk(self, store: Store) -> None:
        interval = _HURRY
        while True:
            stop = self._stop
            self._send(store)
            for key in [*self._wanted]:
                value = _look(store, key)
                if value is not None:
                    self.found[key] = value
                    self._wanted.discard(key)
            for key in self._followed:
                self.found[key] = _look(store, key)
            while (fields := _look(store, f"notice/{self._next_notice}")) is not None:
                self._next_notice += 1
                self._news.append(Notice(**fields))
            self.heard = time.monotonic()
            if stop:
                return
            interval = min(interval * 1.2, INTERVAL / 5) if self._in_hurry else _HURRY
            self._wake.wait(interval if self._in_hurry else INTERVAL)
            self._wake.clear()

    def _send(self, store: Store) -> None:
        while self._outbox:
            item = self._outbox[0]
            if isinstance(item, Notice):
                fields = {**asdict(item), "sentence": item.sentence[:_LONGEST_SENTENCE]}
                store.set(f"notice/{store.add('notices', 1) - 1}", to_bytes(fields).decode())
            else:
                store.set(item[0], to_bytes(item[1]).decode())
            with self._idle:
                self._outbox.popleft()
                self._idle.notify_all()


def _look(store: Store, key: str) -> Any:
    return from_bytes(store.get(key)) if store.check([key]) else None
