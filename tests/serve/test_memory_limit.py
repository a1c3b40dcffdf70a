"""Sizes that are refused for memory do not fit, and those that are named instead do: on ranks that may take no more."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from tests.serve.client import Client
from tests.serve.servers import Served, ranks_of, ready, served, until

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package)

from tokenring_xdit.config import read_config  # noqa: E402
from tokenring_xdit.serve.config import ServeConfig  # noqa: E402
from tokenring_xdit.serve.foresee import Learned  # noqa: E402

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

WORDS = ("embedded", "tokenring_degree=2", "steps=2")
LEARNED = (64, 192, 256, 320, 384)
FITS, ASKED = 448, 640
"""Pixels of a side: what just fits into the memory that there is, and what is asked for."""


def draws(client: Client, side: int) -> int:
    return client.draw(size=f"{side}x{side}").status


def bound(server: Served, more: int) -> None:
    """Let each rank take so many bytes beyond what it has now, and no more: it is told so when it asks the system."""
    process, client = server
    assert draws(client, LEARNED[0]) == 200
    for rank in ranks_of(process).values():
        has = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{rank.pid}/status").read_text())
        assert has is not None
        most = int(has[1]) * 1024 + more
        rank.rlimit(psutil.RLIMIT_DATA, (most, most))


def test_what_is_refused_does_not_fit_and_what_is_named_does(tmp_path: Path) -> None:
    with served(tmp_path, "embedded", *WORDS) as (_, client):
        for side in LEARNED:
            assert [draws(client, side) for _ in range(2)] == [200, 200]
    said = [f"model={WORDS[0]}", *WORDS[1:], f"forecasts={tmp_path}"]
    known = Learned(read_config(ServeConfig, None, said))
    assert known.recall() and known.memory.model is not None
    free = round(known.memory.needed(FITS**2) or 0)
    with served(tmp_path, "embedded", *WORDS, f"memory_per_rank={known.memory.model + free}") as server:
        _, client = server
        bound(server, free)
        refused = client.draw(size=f"{ASKED}x{ASKED}")
        assert (refused.status, refused.error["code"]) == (400, "not_enough_memory")
        print(refused.error["message"])
        named = re.search(r"; (\d+)x\1 fits$", refused.error["message"])
        assert named is not None
        assert FITS * 0.9 <= int(named[1]) <= FITS
        assert draws(client, int(named[1])) == 200
    with served(tmp_path, "embedded", *WORDS) as server:  # which refuses nothing
        _, client = server
        bound(server, free)
        failed = client.draw(size=f"{ASKED}x{ASKED}")
        print(failed.status, failed.body)
        assert failed.status == 500
        until(lambda: ready(client))
        assert draws(client, ASKED) == 200  # ranks that were started again have no bound
