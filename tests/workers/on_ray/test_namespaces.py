"""Two Ray nodes that see each other over an emulated wire only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workers.on_ray.nodes import ROOT, UNHURRIED
from tests.workers.on_ray.test_engine import ENGINE, drawn
from tokenring_xdit import Engine
from tokenring_xdit.lab.network import emulate, parse_network

pytestmark = [pytest.mark.netns, pytest.mark.matrix]

PORT = 6379


def test_two_nodes_in_two_network_namespaces_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra 'ray'")
    with Engine("embedded", **ENGINE) as engine:
        expected = np.asarray(drawn(engine))
    variables = {
        **os.environ,
        **UNHURRIED,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--object-store-memory=80000000"]
    with emulate(parse_network("mesh:2:1gbit")) as network:
        first, second = network.network.hosts
        head = f"{network.address(first)}:{PORT}"

        def start(node: str, *words: str) -> subprocess.Popen[bytes]:
            said = [*ray, *words, f"--node-ip-address={network.address(node)}", "--block", "--disable-usage-stats"]
            with (tmp_path / f"{node}.log").open("w") as log:
                return subprocess.Popen(network.inside(node, said), env=variables, stdout=log, stderr=log)

        folder = Path("/tmp") / f"ray-{os.getpid()}"  # sockets have short names
        words = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
        nodes = [start(first, *words), start(second, f"--address={head}")]
        try:
            command = [sys.executable, "-m", "tests.workers.on_ray.namespaced", head, str(tmp_path / "made.npy")]
            done = subprocess.run(
                network.inside(first, command), env=variables, cwd=ROOT, check=False, capture_output=True, timeout=600
            )
            assert done.returncode == 0, done.stderr.decode()[-3000:] + (tmp_path / f"{second}.log").read_text()
            assert sorted(done.stdout.decode().split()) == sorted(map(network.address, (first, second)))
            assert np.array_equal(np.load(tmp_path / "made.npy"), expected)
        finally:
            network.end_processes()
            for node in nodes:
                node.wait()
