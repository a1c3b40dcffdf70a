"""A rank on a node of a Ray cluster, from the side of whoever started it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from tokenring_xdit import liveness
from tokenring_xdit.liveness import State
from tokenring_xdit.workers.messages import Gone
from tokenring_xdit.workers.starting import Inbox, Packing, StartedRank

__all__ = ["ActorRank"]

log = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds after which an actor says how its rank is, where it has nothing else to say."""

_LOOK = 0.25  # seconds
_SECONDS_TO_ASK = 2.0  # what a rank has printed


class ActorRank(StartedRank):
    """A rank behind an actor, whose answers a thread waits for.

    Args:
        rank: Its number in its world.
        node: The address of its node.
        pid: Its process id there.
        actor: A :class:`tokenring_xdit.workers.on_ray.actor.RankActor` that has started it.
        packing: How messages to and from it are packed.
        inbox: Where its answers go.

    Attributes:
        state: What its process does, as was said last.
    """

    def __init__(self, rank: int, node: str, pid: int, actor: Any, packing: Packing, inbox: Inbox) -> None:
        self.rank, self.node = rank, node
        self.state = State.RUNNING
        self._pid, self._actor, self._packing, self._inbox = pid, actor, packing, inbox
        self._memory: int | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    __hash__ = object.__hash__

    @property
    def pid(self) -> int:
        """Its process id, on its node."""
        return self._pid

    @property
    def identity(self) -> ActorRank:
        """Itself: its state is as its actor has said."""
        return self

    @property
    def ended(self) -> bool:
        """Whether it has ended, or can no longer be reached."""
        return self.state is State.GONE

    def send(self, packed: bytes) -> None:
        """As :meth:`StartedRank.send`."""
        self._actor.send.remote(packed)

    def kill(self) -> None:
        """End the actor, with which the rank ends; Ray ends one that is stopped after five seconds."""
        self._left.set()
        if ray.is_initialized():
            ray.kill(self._actor)

    def hang_up(self) -> None:
        """As :meth:`StartedRank.hang_up`."""
        if not self.ended and not self._left.is_set() and ray.is_initialized():
            self._actor.hang_up.remote()

    def wait(self, timeout: float) -> None:
        """As :meth:`StartedRank.wait`."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self.kill()

    def printed(self) -> str:
        """As :meth:`StartedRank.printed`; nothing where its actor cannot be asked."""
        try:
            return str(ray.get(self._actor.printed.remote(), timeout=_SECONDS_TO_ASK))
        except RayError:
            return ""

    def memory(self) -> int | None:
        """As :meth:`StartedRank.memory`."""
        return None if self.ended else self._memory

    # -- the thread ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            gone = self._carry()
        except RayActorError as error:
            gone = Gone(-signal.SIGKILL, self._lost(error))
        except Exception as error:  # what it said cannot be read, or Ray was shut down
            if not self._left.is_set():
                log.exception("rank %d on node %s is not understood", self.rank, self.node)
            gone = Gone(-signal.SIGKILL, f"was given up, as what came from it could not be read: {error}")
        self.state = State.GONE
        self._inbox.put((self, gone))

    def _carry(self) -> Gone:
        """Hand on what the rank says until it ends."""
        while True:
            asked = self._actor.hear.remote(_POLL)
            if not self._answered(asked):
                return Gone(
                    -signal.SIGKILL,
                    f"cannot be reached: the actor of process {self.pid} did not answer for {liveness.limit():g} s, so "
                    "it or its node is stopped, or the network is cut",
                )
            messages, code, state, self._memory = ray.get(asked)
            for packed in messages:
                self._inbox.put((self, self._packing.unpack(packed)))
            if code is not None:
                return Gone(code)
            self.state = State[state]

    def _answered(self, asked: Any) -> bool:
        """Wait for an answer; only time between looks that follow each other is counted, as whoever looks may sleep."""
        silent, looked = 0.0, time.monotonic()
        while silent < _POLL + liveness.limit():
            if ray.wait([asked], timeout=_LOOK)[0]:
                return True
            now = time.monotonic()
            silent, looked = silent + min(now - looked, 2 * _LOOK), now
        return False

    def _lost(self, error: RayActorError) -> str:
        """What is said of an actor that is gone."""
        return f"was lost with the actor of process {self.pid}: {_why(error)}"


def _why(error: RayActorError) -> str:
    said = str(error)
    if "ray.kill" in said:
        return "somebody had Ray end it"
    if "node" in said.lower() and ("died" in said or "dead" in said) and "worker process has died" not in said:
        return "its node died"
    if "unavailable" in said:
        return "its node died or can no longer be reached"
    return "it was killed, as Linux does when memory runs out"
