"""Builds a network out of the kernel's own parts, and removes it whatever happens.

Every host and every switch is a network namespace, every link a pair of ``veth`` devices whose two ends
are rate-limited by ``htb``. A node has one address, on a bridge device without ports (gloo takes an
interface by its name, and ``lo`` will not do), and a route over the right link to every other node.

The names of the namespaces carry the process that made them, so that whoever comes next can tell the
networks of dead processes from those in use. Nothing outside the namespaces is changed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tokenring_xdit.errors import NetworkError, UnsupportedError
from tokenring_xdit.lab.network.node import device, limits, settings, steering
from tokenring_xdit.lab.segments import segment
from tokenring_xdit.liveness import ProcessIdentity, State
from tokenring_xdit.topology import Network
from tokenring_xdit.workers.signals import interruptions_wait, termination_raises

__all__ = ["INTERFACE", "EmulatedNetwork", "emulate", "remove_stale"]

log = logging.getLogger(__name__)

INTERFACE = "net0"
"""Name of the device that holds a host's address, in each host."""

_NAMESPACES = Path("/run/netns")
_FOLDERS = Path("/run/tokenring-xdit")
_NAME = re.compile(r"(?P<id>trx-(?P<pid>\d+)-(?P<start>\d+)-\d+)(?P<node>-.+)?")
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "setpriv": "util-linux"}

_MOST_NODES = 250  # the last byte of an address tells them apart
# Packets that a link holds before it drops any: the kernel's 1000 overflowed where a fast link leads to a slow one, and
# what is lost there is missed for up to 200 ms.
_QUEUED = 100_000
_PATIENCE = 10.0  # seconds for killed processes to be gone

_serial = 0


@dataclass(frozen=True)
class EmulatedNetwork:
    """A network that exists.

    Attributes:
        network: What it was built from.
        id: Unique on this machine; the names of its namespaces start with it.
    """

    network: Network
    id: str

    @property
    def folder(self) -> Path:
        """A folder that all hosts see, and that goes with the network."""
        return _FOLDERS / self.id

    def namespace(self, node: str) -> str:
        """Name of the network namespace of a host or switch, for ``ip netns exec``."""
        return f"{self.id}-{node}"

    def address(self, node: str) -> str:
        """IPv4 address of a host or switch; the same in every network, as they do not see each other."""
        return f"10.203.0.{self.network.nodes.index(node) + 1}"

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` inside a node; the kernel ends it with the process that started it."""
        return ["setpriv", "--pdeathsig", "KILL", "--", "ip", "netns", "exec", self.namespace(node), *command]

    def end_processes(self) -> None:
        """Kill every process inside the network, and wait until it is gone."""
        _end_processes(_inodes(self.id))


@contextmanager
def emulate(network: Network) -> Iterator[EmulatedNetwork]:
    """Build a network for as long as the ``with`` block runs; networks of dead processes are removed first.

    Removed at the end of the block, with every process inside: also after an error, Ctrl-C, SIGTERM and
    SIGHUP (in the main thread, where nobody else handles them, the latter two raise ``SystemExit``). After
    a SIGKILL the next call, or :func:`remove_stale`, removes it.

    Raises:
        UnsupportedError: This process may not make network namespaces, a tool for it is missing, or the network has
            what cannot be emulated.
        NetworkError: The kernel refused a part of the network.
    """
    global _serial
    network = network.in_frames()
    _refuse_what_cannot_be(network)
    _require_tools()
    for stale in remove_stale():
        log.warning("removed network %s, which a dead process left", stale)
    _serial += 1
    owner = ProcessIdentity.of()
    emulated = EmulatedNetwork(network, f"trx-{owner.pid}-{owner.start}-{_serial}")
    with termination_raises():
        try:
            with interruptions_wait():
                _build(emulated)
            yield emulated
        finally:
            if os.getpid() == owner.pid:  # not in a process that was forked inside the block
                with interruptions_wait():
                    _remove(emulated.id)


def remove_stale() -> tuple[str, ...]:
    """Remove what dead processes left, with every process inside.

    Returns:
        The ids of the networks removed.

    Raises:
        UnsupportedError: This process is not root.
    """
    _require_root()
    found = {
        match["id"]: ProcessIdentity(int(match["pid"]), int(match["start"]))
        for folder in (_NAMESPACES, _FOLDERS)
        for match in map(_NAME.fullmatch, _entries(folder))
        if match
    }
    stale = tuple(sorted(id_ for id_, owner in found.items() if owner.state is State.GONE))
    for id_ in stale:
        _remove(id_)
    return stale


def _refuse_what_cannot_be(network: Network) -> None:
    if len(network.nodes) > _MOST_NODES:
        raise UnsupportedError(
            f"network '{network.name}' has {len(network.nodes)} hosts and switches, and at most {_MOST_NODES} can be "
            "emulated: plan for it with tokenring-xdit plan, or measure a smaller one"
        )
    if any(link.delay for link in network.links):
        raise UnsupportedError(
            f"network '{network.name}' has links with a delay, which cannot be emulated: leave 'delay' out to measure "
            "without it"
        )


# -- building --------------------------------------------------------------------------------------


def _build(emulated: EmulatedNetwork) -> None:
    network = emulated.network
    emulated.folder.mkdir(parents=True, mode=0o700)
    for node in network.nodes:
        _add_namespace(emulated.namespace(node))
        _run(["ip", "netns", "exec", emulated.namespace(node), "sh", "-ec", settings(network, node)])
    pairs = [
        f"link add {device(index)} netns {emulated.namespace(link.a)} type veth "
        f"peer name {device(index)} netns {emulated.namespace(link.b)}"
        for index, link in enumerate(network.links)
    ]
    _run(["ip", "-batch", "-"], pairs)
    for node in network.nodes:
        namespace = emulated.namespace(node)
        _run(["ip", "-n", namespace, "-batch", "-"], [*_devices(emulated, node), *_routes(emulated, node)])
        _run(["tc", "-n", namespace, "-batch", "-"], limits(network, node))
        _run(["ip", "netns", "exec", namespace, "sh", "-ec", steering(network, node)])


def _add_namespace(name: str) -> None:
    try:
        _run(["ip", "netns", "add", name])
    except NetworkError as error:
        raise UnsupportedError(
            f"this process is root and still may not make network namespaces (inside a container, start that with "
            f"--privileged): {error}"
        ) from error


def _devices(emulated: EmulatedNetwork, node: str) -> list[str]:
    network = emulated.network
    lines = [
        "link set lo up",
        f"link add {INTERFACE} type bridge",
        f"addr add {emulated.address(node)}/32 dev {INTERFACE}",
        f"link set {INTERFACE} up",
    ]
    for index, link in enumerate(network.links):
        if node in link.ends:
            # Long pieces would be passed on only when they have arrived whole: a delay that no real link has.
            size = segment(network, link, node)
            lines.append(f"link set {device(index)} gso_max_size {size} txqueuelen {_QUEUED} up")
    return lines


def _routes(emulated: EmulatedNetwork, node: str) -> list[str]:
    network = emulated.network
    lines = []
    for other in network.nodes:
        if other != node and network.reaches(node, other):
            neighbour = network.route(node, other)[1]
            leaving = device(network.links.index(network.link(node, neighbour)))
            # Not every kernel lets a namespace choose its congestion control, but routes can.
            lines.append(
                f"route add {emulated.address(other)}/32 via {emulated.address(neighbour)} dev {leaving} onlink "
                f"src {emulated.address(node)} congctl cubic"
            )
    return lines


# -- removing --------------------------------------------------------------------------------------


def _remove(id_: str) -> None:
    inodes = _inodes(id_)
    _end_processes(inodes)
    for name in _namespaces(id_):
        result = _execute(["ip", "netns", "del", name])
        if result.returncode and (_NAMESPACES / name).exists():  # else somebody else was quicker
            log.warning("could not remove network namespace %s: %s", name, result.stderr.strip())
    _end_processes(inodes)  # some may have been on their way in
    shutil.rmtree(_FOLDERS / id_, ignore_errors=True)


def _end_processes(inodes: set[int]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while inside := _processes(inodes):
        for pid in inside:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            log.warning("processes %s inside an emulated network do not end", sorted(inside))
            return
        time.sleep(0.02)


def _namespaces(id_: str) -> list[str]:
    return [name for name in _entries(_NAMESPACES) if name.startswith(f"{id_}-")]


def _inodes(id_: str) -> set[int]:
    """The namespaces of a network, as the kernel numbers them."""
    inodes = set()
    for name in _namespaces(id_):
        with suppress(OSError):
            inodes.add((_NAMESPACES / name).stat().st_ino)
    return inodes


def _processes(inodes: set[int]) -> set[int]:
    """Processes of this machine that live in one of the namespaces."""
    found = set()
    for pid in _entries(Path("/proc")):
        if pid.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                if os.stat(f"/proc/{pid}/ns/net").st_ino in inodes:
                    found.add(int(pid))
    return found


# -- the process and its surroundings --------------------------------------------------------------


def _require_tools() -> None:
    _require_root()
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise UnsupportedError(
                f"an emulated network needs the command '{tool}', which is not installed: install {package}"
            )


def _require_root() -> None:
    if sys.platform != "linux":
        raise UnsupportedError(f"an emulated network is made of Linux network namespaces, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise UnsupportedError(
            "an emulated network is made of network namespaces, which only root may make, and this is user "
            f"{os.geteuid()}: run the command with sudo, or leave the network out to use this machine's own"
        )


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _run(command: list[str], lines: Sequence[str] = ()) -> None:
    """Run a part of the building, with ``lines`` on its input.

    Raises:
        NetworkError: It failed.
    """
    result = _execute(command, "\n".join([*lines, ""]))
    if result.returncode:
        number = re.search(r"Command failed -:(\d+)", result.stderr)
        at = f" (at '{lines[int(number[1]) - 1]}')" if number else ""
        raise NetworkError(f"the network could not be built: {' '.join(command)}{at}: {result.stderr.strip()}")


def _execute(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    # In a session of its own: Ctrl-C in a terminal must not end it half way.
    return subprocess.run(command, input=text, capture_output=True, text=True, start_new_session=True, check=False)
