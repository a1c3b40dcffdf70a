"""Many requests of all kinds, and ranks that are killed and stopped again and again; minutes to an hour."""

from __future__ import annotations

import http.client
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.serve.client import Client, pixels
from tests.serve.servers import Served, ranks_of, ready, served, until
from tokenring_xdit import Engine

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

REQUESTS, STRIKES = 200, 30

STEPS, SEEDS, SIDES = 4, (0, 1), (64, 96)

FAR = 400  # steps: longer than anybody waits

MALFORMED: tuple[Any, ...] = (
    b"{",
    b"[]",
    b"\xff",
    {"prompt": 3},
    {"prompt": "a", "stepz": 1},
    {"prompt": "a", "size": "9x9"},
    {"prompt": "a", "size": "99999x99999"},
    {"prompt": "a", "steps": 10**30},
    {"prompt": "a" * 40_000},
    b" " * 2**21,
)

Pictures = dict[tuple[int, int], np.ndarray]


def drawing(side: int, seed: int) -> dict[str, Any]:
    return {"size": f"{side}x{side}", "steps": STEPS, "seed": seed}


@pytest.fixture(scope="module")
def expected() -> Pictures:
    """What an engine without a server draws."""
    found = {}
    with Engine("embedded", tokenring_degree=2) as engine:
        for side in SIDES:
            for seed in SEEDS:
                said: dict[str, Any] = {"width": side, "height": side, "steps": STEPS, "seed": seed}
                found[side, seed] = np.asarray(engine.generate("a red circle", **said, progress=False)[0])
    return found


def serving(folder: Path) -> AbstractContextManager[Served]:
    words = ("embedded", "tokenring_degree=2", "--max-waiting", "4")
    return served(folder, "embedded", *words, TOKENRING_LIVENESS_LIMIT="3")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as found:
        yield found


class Storm:
    """Clients of all kinds, one after the other; counts what became of their requests."""

    def __init__(self, client: Client, expected: Pictures) -> None:
        self.client, self.expected, self.dice = client, expected, random.Random(1)
        self.outcomes: Counter[str] = Counter()
        self.kinds: list[Callable[[], None]] = [self.good, self.good, self.malformed, self.cancelled, self.gone]
        self.kinds += [self.two_at_once]

    def good(self) -> None:
        """A picture, which has to be the right one."""
        place = self.dice.choice(SIDES), self.dice.choice(SEEDS)
        answer = self.client.draw(**drawing(*place))
        assert answer.status == 200, answer.body
        assert np.array_equal(pixels(answer.json["data"][0]["b64_json"]), self.expected[place])
        self.outcomes["done"] += 1

    def malformed(self) -> None:
        """What is no request, or one for far too much."""
        answer = self.client.ask("POST", "/v1/images/generations", self.dice.choice(MALFORMED))
        assert answer.status in {400, 413}, answer.body
        assert answer.error["message"]
        self.outcomes["refused"] += 1

    def cancelled(self) -> None:
        """A request that is given up by name, at some step or before."""
        name, connection = self._begun()
        self.client.ask("DELETE", f"/v1/requests/{name}")
        answer = self.client.answer(connection)
        if answer.headers["content-type"].startswith("text/event-stream"):  # which had begun
            assert (answer.status, answer.events[-1]["error"]["code"]) == (200, "cancelled")
        else:
            assert (answer.status, answer.error["code"]) == (499, "cancelled")
        self.outcomes["cancelled"] += 1

    def gone(self) -> None:
        """A client that leaves at some step, or before."""
        name, connection = self._begun()
        connection.close()
        until(lambda: self.client.status(name)["status"] == "cancelled")
        self.outcomes["cancelled"] += 1

    def two_at_once(self) -> None:
        """Two clients, both of whom get their picture."""
        other = threading.Thread(target=self.good)
        other.start()
        self.good()
        other.join()

    def _begun(self) -> tuple[str, http.client.HTTPConnection]:
        name, step = f"storm-{self.outcomes.total()}", self.dice.randrange(4)
        connection = self.client.begin(name, **{**drawing(64, 0), "steps": FAR}, stream=self.dice.random() < 0.3)
        until(lambda: (self.client.status(name) or {"step": -1})["step"] >= step)
        return name, connection


def held(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """Bytes that a server and its ranks hold, their files and processes."""
    all_of_it = [psutil.Process(process.pid), *ranks_of(process).values()]
    size = sum(each.memory_info().rss for each in all_of_it)
    return size, sum(each.num_fds() for each in all_of_it), len(all_of_it)


def test_requests_of_all_kinds(server: Served, expected: Pictures) -> None:
    process, client = server
    storm = Storm(client, expected)
    for kind in storm.kinds:
        kind()
    before = held(process)
    while storm.outcomes.total() < REQUESTS:
        storm.dice.choice(storm.kinds)()
    after = held(process)
    assert after[0] < 1.2 * before[0]
    assert after[1] <= before[1] + 4  # connections that are being closed
    assert after[2] == before[2]
    figures = client.figures()
    counted = {name: figures[f'tokenring_requests_total{{kind="image",outcome="{name}"}}'] for name in storm.outcomes}
    assert counted == storm.outcomes
    assert figures['tokenring_requests_total{kind="image",outcome="failed"}'] == 0
    process.terminate()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 0


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all that is done to ranks."""
    with serving(tmp_path_factory.mktemp("struck")) as found:
        yield found
        process, _ = found
        process.terminate()
        assert process.wait() == 0


@pytest.mark.parametrize("number", range(STRIKES))
def test_a_rank_is_killed_or_stopped(struck: Served, expected: Pictures, number: int) -> None:
    """Any rank, with nothing to do or at any step."""
    process, client = struck
    dice = random.Random(number)
    rank, stop, idle = dice.randrange(2), dice.random() < 0.5, dice.random() < 0.5
    connection = None
    if not idle:
        name, step = f"struck-{number}", dice.randrange(4)
        connection = client.begin(name, **{**drawing(64, 0), "steps": FAR})
        until(lambda: (client.status(name) or {"step": -1})["step"] >= step)
    victim = ranks_of(process)[rank]
    victim.send_signal(signal.SIGSTOP if stop else signal.SIGKILL)
    began = time.monotonic()
    until(lambda: not ready(client))
    known = time.monotonic() - began
    if connection is not None:
        answer = client.answer(connection)
        assert (answer.status, answer.error["code"]) == (500, "rank_failed")
        assert f"rank {rank}" in answer.error["message"]
    until(lambda: ready(client))
    print(
        f"{number}: rank {rank} {'stopped' if stop else 'killed'} {'idle' if idle else 'at work'}: not ready after "
        f"{known:.2f} s, ready after {time.monotonic() - began:.2f} s",
        flush=True,
    )
    Storm(client, expected).good()
