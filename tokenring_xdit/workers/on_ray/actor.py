"""The actor of a rank: it starts the rank's process on its node, and carries bytes to it and back.

The process is one of its own, as on one machine: so the actor sees when it is stopped, how it ended and what it has
printed, torch and NCCL share no process with Ray, and what goes through Ray is plain data.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import socket
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from tokenring_xdit import __version__
from tokenring_xdit.liveness import State
from tokenring_xdit.workers.environment import STORE_VARIABLE, rank_environment
from tokenring_xdit.workers.messages import Gone
from tokenring_xdit.workers.on_ray.seats import inherited, interface_of
from tokenring_xdit.workers.starting import Inbox, Packing
from tokenring_xdit.workers.worker import Worker, take_standard_descriptors

__all__ = ["ANSWERS", "RankActor", "version"]

ANSWERS = "answers"
"""The concurrency group in which answers are waited for, while other calls come in."""

_SECONDS_TO_ASK = 10.0  # nvidia-smi


class _Sealed(Packing):
    """Leaves messages as the rank has packed them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def pack(self, message: Any) -> bytes:
        return bytes(message)

    def unpack(self, packed: bytes) -> Any:
        return packed


class RankActor:
    """The rank's side of :class:`tokenring_xdit.workers.on_ray.rank.ActorRank`."""

    def __init__(self) -> None:
        take_standard_descriptors()
        self._heard: Inbox = queue.SimpleQueue()
        self._worker: Worker | None = None
        self._listening: socket.socket | None = None
        # The rank ends with the thread that starts it; those that carry calls out may end any time.
        self._starter = ThreadPoolExecutor(max_workers=1)

    def about(self) -> dict[str, Any]:
        """What is to be known before ranks get their numbers."""
        context = ray.get_runtime_context()
        return {
            "version": version(),
            "node": context.get_node_id(),
            "address": ray.util.get_node_ip_address(),
            "gpus": [str(each) for each in context.get_accelerator_ids().get("GPU", [])],
            "links": _links(),
        }

    def listen(self) -> int:
        """Open the socket of the ranks' store, for the first one; returns its port."""
        self._listening = socket.create_server((ray.util.get_node_ip_address(), 0))
        return int(self._listening.getsockname()[1])

    def start(self, rank: int, program: str, packing: str, variables: Mapping[str, str]) -> int:
        """Start the rank's process.

        Args:
            rank: Its number.
            program: What it serves.
            packing: How messages to and from it are packed.
            variables: Beyond those of this node.

        Returns:
            Its process id.
        """
        sockets = [] if self._listening is None else [self._listening.fileno()]
        interface = interface_of(ray.util.get_node_ip_address())
        environment = {
            **rank_environment(int(variables["LOCAL_WORLD_SIZE"])),
            **inherited(os.environ),
            **({} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}),
            **variables,
            STORE_VARIABLE: ",".join(map(str, sockets)),
        }
        self._worker = self._starter.submit(
            Worker, rank, program, environment, self._heard, sockets, packing=_Sealed(packing), tied=True
        ).result()
        if self._listening is not None:
            self._listening.close()  # the rank has it
        return self._worker.pid

    def send(self, packed: bytes) -> None:
        """Tell the rank."""
        assert self._worker is not None
        self._worker.send(packed)

    def hang_up(self) -> None:
        """Let the rank end."""
        assert self._worker is not None
        self._worker.hang_up()

    def printed(self) -> str:
        """What the rank has printed."""
        return "" if self._worker is None else self._worker.printed()

    @ray.method(concurrency_group=ANSWERS)
    def hear(self, seconds: float) -> tuple[list[bytes], int | None, str, int | None]:
        """Wait for what the rank says, at most so long.

        Returns:
            Its messages, its exit code once it has ended, what its process does, and its resident bytes.
        """
        assert self._worker is not None
        messages: list[bytes] = []
        code = None
        with contextlib.suppress(queue.Empty):
            while code is None:
                _, said = self._heard.get(timeout=0 if messages else seconds)
                if isinstance(said, Gone):
                    code = said.exit_code
                else:
                    messages.append(said)
        identity = self._worker.identity
        return messages, code, (State.GONE if identity is None else identity.state).name, self._worker.memory()


def version() -> str:
    """What has to be the same on all nodes."""
    return f"tokenring-xdit {__version__} on Python {platform.python_version()}"


def _links() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            [program, "topo", "-m"], capture_output=True, text=True, timeout=_SECONDS_TO_ASK, check=True
        )
        return asked.stdout
    return ""
