"""A thousand requests to one server: what it and its ranks hold does not grow. A quarter of an hour."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.serve.client import Client
from tests.serve.servers import Served, ranks_of, served, until

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

REQUESTS, SETTLED, EVERY = 1000, 200, 100
"""Of the first two hundred, which fill what is kept of requests, caches and arenas, nothing is asked."""

MORE_RESIDENT = 16 * 2**20
"""Bytes by which a process may grow over the other 800: 20 KiB a request."""

MORE_FILES = 2**18
"""Bytes by which files may grow, those without a name in memory and those on disk."""

MORE_OPEN = 4
"""Files and threads that may come: connections that are being closed."""


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    resident: int
    files: int
    threads: int
    unnamed: int

    @classmethod
    def by(cls, process: psutil.Process) -> Held:
        """By a process."""
        unnamed = 0
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                if os.readlink(descriptor).startswith(("/memfd:", "/dev/shm")):
                    unnamed += descriptor.stat().st_blocks * 512
            except OSError:  # closed meanwhile
                continue
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads(), unnamed)


def all_held(server: Served) -> dict[str, Held]:
    """By the server and each rank."""
    process, _ = server
    ranks = {f"rank {rank}": Held.by(each) for rank, each in ranks_of(process).items()}
    return {"server": Held.by(psutil.Process(process.pid)), **ranks}


def on_disk(folder: Path) -> int:
    """Bytes of files in a folder, which is the server's for temporary ones, and for forecasts."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def shared() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "torch" in name or "tokenring" in name}


def ask(client: Client, number: int, dice: random.Random) -> str:
    """One request: a picture, mostly; or one that is refused, or given up. Returns what became of it."""
    prompt = "a red circle " * dice.randrange(1, 5) + str(number)
    body = {"prompt": prompt, "size": dice.choice(("32x32", "64x64", "48x64")), "steps": 2, "seed": number}
    if number % 10 == 5:
        assert client.draw(**body, nonsense=number).status == 400
        return "refused"
    if number % 50 == 49:
        connection = client.begin(f"long-{number}", size="64x64", steps=400)
        until(lambda: (client.status(f"long-{number}") or {}).get("step", 0) >= 1)
        connection.close()
        until(lambda: client.status(f"long-{number}")["status"] == "cancelled")
        return "cancelled"
    assert client.draw(**body).status == 200
    return "done"


def counted(client: Client) -> Counter[str]:
    """What the server says became of requests."""
    figures, outcomes = client.figures(), ("done", "refused", "cancelled", "failed")
    named = {name: f'tokenring_requests_total{{kind="image",outcome="{name}"}}' for name in outcomes}
    return +Counter({name: int(figures[figure]) for name, figure in named.items()})


def test_nothing_grows(tmp_path: Path) -> None:
    dice, begun, became = random.Random(1), shared(), Counter[str]()
    with served(tmp_path, "embedded", "embedded", "tokenring_degree=2") as server:
        process, client = server
        for number in range(REQUESTS):
            became[ask(client, number, dice)] += 1
            if number + 1 == SETTLED:
                before, files = all_held(server), on_disk(tmp_path)
            if (number + 1) % EVERY == 0:
                print(f"{number + 1}: {on_disk(tmp_path)} bytes on disk, {all_held(server)}", flush=True)
        after = all_held(server)
        assert after.keys() == before.keys()
        for name, held in after.items():
            assert held.resident <= before[name].resident + MORE_RESIDENT, name
            assert held.unnamed <= before[name].unnamed + MORE_FILES, name
            assert held.files <= before[name].files + MORE_OPEN, name
            assert held.threads <= before[name].threads + MORE_OPEN, name
        assert on_disk(tmp_path) <= files + MORE_FILES
        assert counted(client) == became
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log
        assert len(log) < 10_000
        assert process.wait() == 0
    assert shared() <= begun
