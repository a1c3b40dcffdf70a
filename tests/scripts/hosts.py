"""Two hosts on this machine: network namespaces joined by a link."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.scripts.support import SCRIPTS, environment


@dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        namespace: Its network namespace.
        address: Its address, held by the device ``host``, while packets leave by the device ``link``.
    """

    namespace: str
    address: str

    def start(self, script: str, *arguments: str | Path, folder: Path | None = None) -> subprocess.Popen[str]:
        """Start a script of ``scripts/`` on this host, in a folder."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "bash", str(SCRIPTS / script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(),
        )

    def sent(self) -> int:
        """Bytes that have left by the link."""
        counter = "/sys/class/net/link/statistics/tx_bytes"
        return int(_ip("netns", "exec", self.namespace, "cat", counter))


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts, and remove them whatever happens; with them go the processes' connections."""
    names = [f"launch{os.getpid()}{side}" for side in "ab"]
    hosts = (Host(names[0], "10.98.76.1"), Host(names[1], "10.98.76.2"))
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        _ip("link", "add", "link", "netns", names[0], "type", "veth", "peer", "name", "link", "netns", names[1])
        for host, other in (hosts, hosts[::-1]):
            inside = ("-netns", host.namespace)
            _ip(*inside, "link", "add", "host", "type", "bridge")
            _ip(*inside, "address", "add", f"{host.address}/32", "dev", "host")
            for device in ("lo", "host", "link"):
                _ip(*inside, "link", "set", device, "up")
            _ip(*inside, "route", "add", f"{other.address}/32", "dev", "link", "src", host.address)
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
