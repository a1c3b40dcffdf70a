"""The rank processes of a sweep, from the side of the command: started, given orders, and surely ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.bench.orders import Failure
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.network import INIT_METHOD_VARIABLE, EmulatedNetwork, rank_variables
from tokenring_xdit.pipelines.environment import rank_environment
from tokenring_xdit.pipelines.messages import pack, receive

__all__ = ["Crew"]

_SECONDS_TO_STOP = 5.0
_SECONDS_TO_EXPLAIN = 1.0
"""After a first failure: the rank that died is to blame, not those that miss it, and they may be heard first."""
_LINES = 5  # of a dead rank's messages that are shown


class Crew:
    """Ranks that live as long as the ``with`` block, or until one of them fails.

    Args:
        ranks: How many.
        emulated: The network that they run in, rank ``r`` at host ``r``; ``None`` for this machine's loopback.
        module: What each of them runs, with the file descriptors of two pipes for orders and answers.
    """

    def __init__(self, ranks: int, emulated: EmulatedNetwork | None, module: str = "tokenring_xdit.bench.rank") -> None:
        self.ranks = ranks
        self._module = module
        self._folder = tempfile.TemporaryDirectory(
            prefix="tokenring-xdit-bench-", dir=None if emulated is None else emulated.folder
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        self._orders: list[Connection] = []
        self._answers: list[Connection] = []
        try:
            for rank in range(ranks):
                self._start(rank, emulated)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, rank: int, emulated: EmulatedNetwork | None) -> None:
        folder = Path(self._folder.name)
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_RANK": str(rank),
            INIT_METHOD_VARIABLE: f"file://{folder / 'store'}",
        }
        if emulated is not None:
            variables = rank_variables(emulated, rank, self.ranks, folder)
            variables[TOPOLOGY_VARIABLE] = emulated.network.name
        theirs_in, ours_out = Pipe(duplex=False)
        ours_in, theirs_out = Pipe(duplex=False)
        ends = (theirs_in.fileno(), theirs_out.fileno())
        command = [sys.executable, "-m", self._module, *map(str, ends)]
        if emulated is not None:
            command = emulated.inside(emulated.network.hosts[rank], command)
        with theirs_in, theirs_out, (folder / f"{rank}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    pass_fds=ends,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**rank_environment(self.ranks), **os.environ, **variables},
                    start_new_session=True,  # Ctrl-C goes to the command, and it ends them
                )
            )
        self._orders.append(ours_out)
        self._answers.append(ours_in)

    def ask(self, order: Any, timeout: float) -> list[Any]:
        """Give all ranks an order and wait for their answers.

        Args:
            order: One of :mod:`tokenring_xdit.bench.orders`.
            timeout: Seconds.

        Returns:
            What each rank answered.

        Raises:
            LaunchError: A rank failed, died or did not answer in time; the others are ended too.
        """
        packed = pack(order)
        for connection in self._orders:
            try:
                connection.send_bytes(packed)
            except BrokenPipeError:
                continue  # it has died, which its silence will tell
        answers: dict[int, Any] = {}
        errors: dict[int, str] = {}
        dead: list[int] = []
        deadline = time.monotonic() + timeout
        while len(answers) + len(errors) < self.ranks:
            waiting = [rank for rank in range(self.ranks) if rank not in answers and rank not in errors]
            ready = wait([self._answers[rank] for rank in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for rank in waiting:
                connection = self._answers[rank]
                if connection not in ready:
                    continue
                try:
                    answer = receive(connection)
                except (EOFError, OSError):
                    errors[rank] = self._last_words(rank)
                    dead.append(rank)
                    continue
                if isinstance(answer, Failure):
                    errors[rank] = f"failed: {answer.error}"
                else:
                    answers[rank] = answer
            if errors:
                deadline = min(deadline, time.monotonic() + _SECONDS_TO_EXPLAIN)
        if errors:
            self.close()
            rank = next(iter(dead), next(iter(errors)))
            raise LaunchError(f"rank {rank} {errors[rank]}")
        if len(answers) < self.ranks:
            self.close()
            raise LaunchError(
                f"ranks {sorted(set(range(self.ranks)) - set(answers))} did not answer within {timeout:g} seconds"
            )
        return [answers[rank] for rank in range(self.ranks)]

    def close(self) -> None:
        """End all ranks."""
        for connection in (*self._orders, *self._answers):
            connection.close()  # by which a rank knows
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def _last_words(self, rank: int) -> str:
        code = self.processes[rank].wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = (Path(self._folder.name) / f"{rank}.log").read_text(errors="replace")
        last = "\n".join(text.splitlines()[-_LINES:])
        return f"{how}: {last}" if last else how
