"""Runs a command once for each rank, rank ``r`` inside host ``r`` of an emulated network."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tokenring_xdit.lab.network.emulate import INTERFACE, EmulatedNetwork
from tokenring_xdit.workers.environment import INIT_METHOD_VARIABLE
from tokenring_xdit.workers.programs import end_all, wait_for_all

__all__ = ["INIT_METHOD_VARIABLE", "RankOutput", "rank_variables", "run_ranks"]

_MASTER_PORT = 29500  # nothing else listens inside the namespaces
_LINES = 15  # of a failed rank's messages that are shown


@dataclass(frozen=True)
class RankOutput:
    """What a rank wrote.

    Attributes:
        stdout: Its standard output.
        stderr: Its messages.
    """

    stdout: str
    stderr: str


def run_ranks(
    emulated: EmulatedNetwork,
    command: Sequence[str],
    *,
    ranks: int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> tuple[RankOutput, ...]:
    """Run ``command`` on every host at once and wait for all of them. One such call at a time for a network.

    Each finds the variables that ``torchrun`` sets (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and so on),
    ``GLOO_SOCKET_IFNAME``, and :data:`INIT_METHOD_VARIABLE`: a file that all ranks see, with which they can
    join without a word on the links. The processor's cores are divided among them (``OMP_NUM_THREADS``); none of
    them sees a GPU.

    Args:
        emulated: The network.
        command: Program and arguments.
        ranks: How many; on the first hosts. ``None`` is one for each host.
        environment: Variables to set on top.
        timeout: Seconds after which all are ended; ``None`` waits as long as it takes.

    Returns:
        What each rank wrote.

    Raises:
        ConfigurationError: There are fewer hosts than ranks.
        LaunchError: A rank failed or is stopped, or the time ran out. The message names the rank that failed first and
            shows the end of its messages; nothing is left running, whatever was raised.
    """
    hosts = emulated.network.hosts
    count = len(hosts) if ranks is None else ranks
    emulated.network.refuse_ranks(count)
    folder = emulated.folder / f"run-{uuid.uuid4().hex}"
    folder.mkdir()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            variables = {**rank_variables(emulated, rank, count, f"file://{folder / 'store'}"), **(environment or {})}
            processes.append(_start(emulated, hosts[rank], command, variables, folder / str(rank)))
        wait_for_all(
            processes,
            lambda rank: f"rank {rank} (host {hosts[rank]})",
            last_words=lambda rank: _end_of(folder / f"{rank}.err"),
            timeout=timeout,
        )
    finally:
        try:
            end_all(processes)
        finally:
            emulated.end_processes()
    return tuple(RankOutput(*(_text(folder / f"{rank}.{end}") for end in ("out", "err"))) for rank in range(count))


def rank_variables(emulated: EmulatedNetwork, rank: int, count: int, init_method: str) -> dict[str, str]:
    """What a rank finds in its environment; see :func:`run_ranks`.

    Args:
        emulated: The network.
        rank: The rank.
        count: Number of ranks.
        init_method: Where they join.
    """
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(rank),
        "MASTER_ADDR": emulated.address(emulated.network.hosts[0]),
        "MASTER_PORT": str(_MASTER_PORT),
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "CUDA_VISIBLE_DEVICES": "",  # what GPUs send each other would not go over the links
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
        INIT_METHOD_VARIABLE: init_method,
    }


def _start(
    emulated: EmulatedNetwork, host: str, command: Sequence[str], variables: dict[str, str], output: Path
) -> subprocess.Popen[bytes]:
    with ExitStack() as stack:
        out, err = (stack.enter_context(output.with_suffix(f".{end}").open("wb")) for end in ("out", "err"))
        return subprocess.Popen(
            emulated.inside(host, command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **variables},
            start_new_session=True,  # Ctrl-C goes to us, and we end them
        )


def _end_of(path: Path) -> str:
    return "\n".join(_text(path).splitlines()[-_LINES:]) or "it said nothing"


def _text(path: Path) -> str:
    return path.read_text(errors="replace")
