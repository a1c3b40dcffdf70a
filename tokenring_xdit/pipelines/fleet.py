"""The processes of an engine, from its side: started, spoken to, and surely ended."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tokenring_xdit.pipelines.environment import rank_environment
from tokenring_xdit.pipelines.messages import Cancel, Gone, Setup, pack, receive

__all__ = ["Fleet", "RankProcess", "World"]

log = logging.getLogger(__name__)

_SECONDS_TO_STOP = 5.0
"""How long a rank that was told to end gets before it is killed."""

Inbox = queue.SimpleQueue[tuple[Any, Any]]
"""Messages of all ranks, with the rank that each is from."""


class RankProcess:
    """One rank: its process, and for each of the two pipes between it and the engine a thread.

    So neither waits for the other to read: not the rank, and not the engine where a rank hangs. The rank ends when
    the pipe to it is closed, which the system does for an engine that is killed.

    Args:
        rank: Its number in its world.
        environment: Of the process.
        log_file: Where its output goes.
        inbox: Where its answers go.
    """

    def __init__(self, rank: int, environment: dict[str, str], log_file: Path, inbox: Inbox) -> None:
        self.rank = rank
        self.log_file = log_file
        theirs_in, self._requests = Pipe(duplex=False)
        self._answers, theirs_out = Pipe(duplex=False)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with theirs_in, theirs_out, log_file.open("wb") as output:
            ends = (theirs_in.fileno(), theirs_out.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tokenring_xdit.pipelines.engine_rank", *map(str, ends)],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches the engine alone
            )
        self._threads = (
            threading.Thread(target=_listen, args=(self, self._answers, self.process, inbox), daemon=True),
            threading.Thread(target=_speak, args=(self._outbox, self._requests), daemon=True),
        )
        for thread in self._threads:
            thread.start()
        _all_ranks.add(self)

    def send(self, packed: bytes) -> None:
        """Tell the rank."""
        self._outbox.put(packed)

    def hang_up(self) -> None:
        """Let the rank end."""
        self._outbox.put(None)

    def wait(self, timeout: float) -> None:
        """Wait for its end, once it was hung up on; kill it when the time is over."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():  # which may be collecting garbage
                thread.join(timeout)

    def disown(self) -> None:
        """In a fork of the engine's process: do not keep the pipes open."""
        self._requests.close()
        self._answers.close()


_all_ranks: weakref.WeakSet[RankProcess] = weakref.WeakSet()


def _disown_all() -> None:
    for rank in list(_all_ranks):
        rank.disown()


os.register_at_fork(after_in_child=_disown_all)


def _speak(outbox: queue.SimpleQueue[bytes | None], requests: Connection) -> None:
    with requests, contextlib.suppress(OSError):  # of a rank that has ended, which its listener reports
        while (packed := outbox.get()) is not None:
            requests.send_bytes(packed)


def _listen(rank: RankProcess, answers: Connection, process: subprocess.Popen[bytes], inbox: Inbox) -> None:
    try:
        with answers, contextlib.suppress(EOFError, OSError):
            while True:
                inbox.put((rank, receive(answers)))
    except Exception:  # too large for what memory is left, say
        log.exception("an answer of rank %d could not be read", rank.rank)
        process.kill()
    inbox.put((rank, Gone(process.wait())))


class World:
    """Ranks that serve a request together.

    Attributes:
        replica: Its number among the engine's worlds.
        ranks: Its ranks.
    """

    def __init__(self, replica: int, ranks: tuple[RankProcess, ...]) -> None:
        self.replica = replica
        self.ranks = ranks

    @property
    def died(self) -> bool:
        """Whether a rank has ended."""
        return any(rank.process.poll() is not None for rank in self.ranks)

    def send(self, message: Any) -> None:
        """Tell all ranks."""
        packed = pack(message)
        for rank in self.ranks:
            rank.send(packed)

    def cancel(self, number: int) -> None:
        """Have all ranks give a request up together; they agree on what the first one says."""
        self.ranks[0].send(pack(Cancel(number)))

    def hang_up(self) -> None:
        """Let all ranks end."""
        for rank in self.ranks:
            rank.hang_up()

    def stop(self, *, kill: bool = False) -> None:
        """End all processes.

        Args:
            kill: Do not give them time.
        """
        if kill:
            for rank in self.ranks:
                rank.process.kill()
        self.hang_up()
        for rank in self.ranks:
            rank.wait(_SECONDS_TO_STOP)


def _take_standard_descriptors() -> None:
    """Where standard input, output or error are closed, as in some daemons, let nothing else get their numbers.

    A pipe that had one would not reach the rank, and would carry what is printed by others.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
        pass
    os.close(descriptor)


_LAST_STANDARD_DESCRIPTOR = 2


class Fleet:
    """All worlds of an engine, and the folder of their logs.

    Args:
        replicas: Number of worlds.
        ranks: Ranks of each.
        make_setup: What a world loads; is given the file through which its ranks meet.
    """

    def __init__(self, replicas: int, ranks: int, make_setup: Callable[[str], Setup]) -> None:
        _take_standard_descriptors()
        self.inbox: Inbox = queue.SimpleQueue()
        self.worlds: list[World | None] = [None] * replicas
        self._ranks = ranks
        self._make_setup = make_setup
        self._owner = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="tokenring-xdit-"))
        self._starts = 0
        self._closed = False
        self._changing = threading.Lock()
        self._keep_logs = False

    @property
    def here(self) -> bool:
        """Whether this is the process that started the ranks, and not a fork of it."""
        return os.getpid() == self._owner

    def start_missing(self) -> list[World]:
        """Start the worlds that are not there, or not whole; they load their model meanwhile."""
        for world in self.worlds:
            if world is not None and world.died:
                log.warning("ranks have died while they had nothing to do: starting them again")
                self.drop(world)
        with self._changing:
            missing = [] if self._closed else [replica for replica, known in enumerate(self.worlds) if known is None]
            return [self._start(replica) for replica in missing]

    def _start(self, replica: int) -> World:
        self._starts += 1
        name = f"start{self._starts}-replica{replica}"
        total = self._ranks * len(self.worlds)
        ranks: list[RankProcess] = []
        try:
            for rank in range(self._ranks):
                environment = {
                    **rank_environment(total),
                    "GLOO_SOCKET_IFNAME": "lo",  # all ranks are on this machine, whose name need not resolve
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(self._ranks),
                    "LOCAL_RANK": str(replica * self._ranks + rank),
                }
                ranks.append(RankProcess(rank, environment, self._folder / f"{name}-rank{rank}.log", self.inbox))
        finally:
            world = self.worlds[replica] = World(replica, tuple(ranks))  # also what was started when it fails
        world.send(self._make_setup(str(self._folder / f"{name}.rendezvous")))
        return world

    def drop(self, world: World) -> None:
        """Kill a world that cannot go on; the next start makes it anew."""
        with self._changing:
            if self.worlds[world.replica] is world:
                self.worlds[world.replica] = None
        world.stop(kill=True)

    def drop_all(self) -> None:
        """Kill all worlds."""
        for world in self.worlds:
            if world is not None:
                self.drop(world)

    def keep_logs(self) -> None:
        """Leave the logs behind, because an error names them."""
        self._keep_logs = True

    def close(self) -> None:
        """End all processes, for good."""
        if not self.here:
            return
        with self._changing:
            self._closed = True
            worlds = [world for world in self.worlds if world is not None]
            self.worlds[:] = [None] * len(self.worlds)
        for world in worlds:
            world.hang_up()
        for world in worlds:
            world.stop()
        if not self._keep_logs:
            shutil.rmtree(self._folder, ignore_errors=True)
