"""One rank, from the side of whoever started it: its process, two pipes, and what it prints."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from tokenring_xdit.liveness import ProcessIdentity, State
from tokenring_xdit.workers.interpreter import run_module
from tokenring_xdit.workers.messages import Gone
from tokenring_xdit.workers.output import PrintedOutput
from tokenring_xdit.workers.pipes import Pickles
from tokenring_xdit.workers.starting import Inbox, Packing, StartedRank
from tokenring_xdit.workers.state import Event, Heard

__all__ = ["Rendezvous", "Worker", "hear", "take_standard_descriptors"]

log = logging.getLogger(__name__)

_STANDARD_ERROR = 2


class Rendezvous:
    """A file without a name, through which ranks of one machine join: it opens no port, and the system takes it back.

    Attributes:
        descriptor: Its file descriptor, which ranks inherit.
    """

    def __init__(self) -> None:
        take_standard_descriptors()
        self.descriptor = os.memfd_create("tokenring-rendezvous")

    @property
    def init_method(self) -> str:
        """What ``torch.distributed.init_process_group(init_method=...)`` takes, in a rank."""
        return f"file:///proc/self/fd/{self.descriptor}"

    def __enter__(self) -> Rendezvous:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)  # ranks keep it as long as they live


class Worker:
    """One rank: its process, and for each of the two pipes a thread.

    So neither side waits for the other to read: not the rank, and not this process where a rank hangs. The rank ends
    when the pipe to it is closed, which the system does for a process that is killed.

    Args:
        rank: Its number in its world.
        program: What it serves; see :func:`tokenring_xdit.workers.loop.serve`.
        environment: Environment of the process.
        inbox: Where its answers go.
        inherited: File descriptors that it keeps, such as that of a :class:`Rendezvous`.
        quiet: Keep what it prints for :meth:`printed`, instead of having it printed on standard error.
        before: Words that stand before the command, such as those that run it elsewhere.
        packing: How messages to and from it are packed.
        tied: Whether this thread lives as long as the process; by default only the main thread is taken to.
    """

    node: str | None = None

    def __init__(
        self,
        rank: int,
        program: str,
        environment: Mapping[str, str],
        inbox: Inbox,
        inherited: Sequence[int],
        *,
        quiet: bool = True,
        before: Sequence[str] = (),
        packing: Packing | None = None,
        tied: bool | None = None,
    ) -> None:
        self.rank = rank
        # A thread that starts a process may end before it; its end would be taken for that of the whole process.
        if tied is None:
            tied = threading.current_thread() is threading.main_thread()
        packing = Pickles() if packing is None else packing
        theirs_in, self._requests = Pipe(duplex=False)
        self._answers, theirs_out = Pipe(duplex=False)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._output = PrintedOutput() if quiet else None
        with theirs_in, theirs_out:
            ends = (theirs_in.fileno(), theirs_out.fileno())
            words = (program, os.getpid(), int(tied), *ends, packing.name)
            output = _STANDARD_ERROR if self._output is None else self._output.descriptor
            self.process = subprocess.Popen(
                [*before, *run_module("tokenring_xdit.workers.rank", words)],
                pass_fds=(*ends, *inherited),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
            )
        try:
            self.identity: ProcessIdentity | None = ProcessIdentity.of(self.process.pid)
        except ProcessLookupError:
            self.identity = None
        self._threads = (
            threading.Thread(target=_listen, args=(self, self._answers, packing, inbox), daemon=True),
            threading.Thread(target=_speak, args=(self._outbox, self._requests), daemon=True),
        )
        for thread in self._threads:
            thread.start()
        _workers.add(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether its process has ended; asked of the system, as ``poll`` knows nothing while another thread waits."""
        return self.identity is None or self.identity.state is State.GONE

    def send(self, packed: bytes) -> None:
        """Tell the rank."""
        self._outbox.put(packed)

    def hang_up(self) -> None:
        """Let the rank end."""
        self._outbox.put(None)

    def kill(self) -> None:
        """End the rank at once."""
        self.process.kill()

    def memory(self) -> int | None:
        """Its resident bytes; ``None`` once it has ended."""
        return None if self.identity is None else self.identity.memory()

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

    def printed(self) -> str:
        """The end of what it has printed until now."""
        return "" if self._output is None else self._output.text()

    def heard(self) -> None:
        """Take note that it has said something: what it printed long ago is not kept."""
        if self._output is not None:
            self._output.trim()

    def disown(self) -> None:
        """In a fork of this process: do not keep the pipes open."""
        self._requests.close()
        self._answers.close()

    def __del__(self) -> None:
        output = getattr(self, "_output", None)
        if output is not None:
            output.close()


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _disown_all() -> None:
    for worker in list(_workers):
        worker.disown()


os.register_at_fork(after_in_child=_disown_all)


def hear(inbox: Inbox, seconds: float) -> Event[StartedRank] | None:
    """Wait for what a rank says, at most so long."""
    try:
        worker, message = inbox.get(timeout=seconds)
    except queue.Empty:
        return None
    return message if worker is None else Heard(worker, message, time.monotonic())


def _speak(outbox: queue.SimpleQueue[bytes | None], requests: Connection) -> None:
    with requests, contextlib.suppress(OSError):  # of a rank that has ended, which its listener reports
        while (packed := outbox.get()) is not None:
            requests.send_bytes(packed)


def _listen(worker: Worker, answers: Connection, packing: Packing, inbox: Inbox) -> None:
    try:
        with answers, contextlib.suppress(EOFError, OSError):
            while True:
                inbox.put((worker, packing.unpack(answers.recv_bytes())))
                worker.heard()
    except Exception:  # too large for what memory is left, say
        log.exception("an answer of rank %d could not be read", worker.rank)
        worker.process.kill()
    inbox.put((worker, Gone(worker.process.wait())))


def take_standard_descriptors() -> None:
    """Where standard input, output or error are closed, as in some daemons, let nothing else get their numbers.

    A pipe that had one would not reach the rank, and would carry what is printed by others.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
