"""Runs a program on ranks of this machine: ``python -m tokenring_xdit.workers.launch --ranks N PROGRAM ...``.

The ranks find what ``torchrun`` would tell them, except that the store where they join listens on the loopback only. A
rank that fails ends the others. ``-m MODULE ...`` runs a module.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tokenring_xdit.errors import LaunchError
from tokenring_xdit.workers.environment import rank_environment
from tokenring_xdit.workers.interpreter import run_module
from tokenring_xdit.workers.interrupt import interruptible
from tokenring_xdit.workers.lifetime import LAUNCHER_VARIABLE
from tokenring_xdit.workers.programs import end_all, wait_for_all
from tokenring_xdit.workers.signals import termination_raises

__all__ = ["main"]

_LOOPBACK = "127.0.0.1"


def run_program(program: Sequence[str], ranks: int) -> None:
    """Run a program on all ranks and wait for its end.

    Args:
        program: Path of a script, or ``-m`` and the name of a module, and arguments.
        ranks: How many.

    Raises:
        LaunchError: A rank failed, was killed or is stopped; the others are ended.
    """
    listening = socket.create_server((_LOOPBACK, 0))
    port = int(listening.getsockname()[1])
    store = TCPStore(
        _LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
    )
    common = {
        **rank_environment(ranks),
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(store.port),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the first rank joins the store instead of opening one
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        LAUNCHER_VARIABLE: str(os.getpid()),
    }
    processes: list[subprocess.Popen[bytes]] = []
    with termination_raises():
        try:
            for rank in range(ranks):
                command = run_module("tokenring_xdit.workers.lifetime", program)
                environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
            wait_for_all(processes, lambda rank: f"rank {rank}")
        finally:
            end_all(processes)


def main() -> int:
    """Do what the command line says."""
    _, ranks, *program = sys.argv[1:]
    try:
        run_program(program, int(ranks))
    except LaunchError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interruptible(main))
