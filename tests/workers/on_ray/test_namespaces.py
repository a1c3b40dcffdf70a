"""Two Ray nodes that see each other over an emulated wire only, each with a folder for Ray of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.serve.servers import until
from tests.workers.on_ray.nodes import ROOT, UNHURRIED
from tests.workers.on_ray.test_engine import ENGINE, drawn
from tokenring_xdit import Engine
from tokenring_xdit.lab.network import EmulatedNetwork, emulate, parse_network

pytestmark = [pytest.mark.netns, pytest.mark.matrix]

PORT = 6379
RAYS_FOLDER = Path("/tmp/ray")

OWN_FOLDER = f'mount --bind "$0" {RAYS_FOLDER} && exec "$@"'
"""Said to a shell in a namespace, which has mounts of its own: the first word is what it sees as Ray's folder."""

LISTENS = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


class Machines:
    """The two hosts of a network as machines with Ray."""

    def __init__(self, network: EmulatedNetwork, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.hosts = network.network.hosts
        self.head = f"{network.address(self.hosts[0])}:{PORT}"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(paths), "RAY_AUTH_MODE": "disabled"}  # whatever this user has
        self._variables = {**os.environ, **UNHURRIED, **variables}
        RAYS_FOLDER.mkdir(exist_ok=True)

    def inside(self, host: str, *words: str) -> subprocess.Popen[str]:
        """Run Python on a host; what it says is in a log, but for its first stream."""
        own = self.folder / host
        own.mkdir(exist_ok=True)
        command = self.network.inside(host, ["sh", "-c", OWN_FOLDER, str(own), sys.executable, *words])
        with (self.folder / f"{host}.log").open("a") as log:
            return subprocess.Popen(
                command, env=self._variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def start_ray(self, host: str, *words: str) -> None:
        """Have it be a node of one core."""
        said = ["start", *words, "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
        said += [f"--node-ip-address={self.network.address(host)}"]
        process = self.inside(host, "-m", "ray.scripts.scripts", *said)
        shown, _ = process.communicate(timeout=300)
        assert process.returncode == 0, shown + self.log(host)

    def listens(self) -> bool:
        """Whether the second host hears of the first."""
        process = self.inside(self.hosts[1], "-c", LISTENS, *self.head.split(":"))
        process.communicate()
        return process.returncode == 0

    def log(self, host: str) -> str:
        """What went wrong there."""
        return (self.folder / f"{host}.log").read_text()[-3000:]


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """Both of them, as nodes of one cluster."""
    with emulate(parse_network("mesh:2:1gbit")) as network:
        found = Machines(network, folder)
        try:
            found.start_ray(found.hosts[0], "--head", f"--port={PORT}", "--include-dashboard=false")
            until(found.listens)
            found.start_ray(found.hosts[1], f"--address={found.head}")
            yield found
        finally:
            network.end_processes()


def test_two_nodes_in_two_network_namespaces_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra 'ray'")
    with Engine("embedded", **ENGINE) as engine:
        expected = np.asarray(drawn(engine))
    with machines(tmp_path) as found:
        first = found.hosts[0]
        words = ["-m", "tests.workers.on_ray.namespaced", found.head, str(tmp_path / "made.npy")]
        process = found.inside(first, *words)
        shown, _ = process.communicate(timeout=600)
        assert process.returncode == 0, shown + found.log(first) + found.log(found.hosts[1])
        assert sorted(shown.split()) == sorted(map(found.network.address, found.hosts))
        assert np.array_equal(np.load(tmp_path / "made.npy"), expected)
