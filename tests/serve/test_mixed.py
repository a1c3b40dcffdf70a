"""Two hundred requests of every kind to one server: what is good is exact, and nothing is left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.serve.client import GENERATIONS, Client, pixels
from tests.serve.servers import ranks_of, served, until
from tokenring_xdit import Engine

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.matrix]

PROMPT = "a red circle left of a blue square"
REQUESTS = 200
WORDS = ("embedded", "tokenring_degree=2", "--max-pixels", str(256 * 256), "--max-waiting", "4")
GOOD = [(seed, side, steps) for seed in (1, 2) for side, steps in ((64, 3), (96, 2), (128, 2))]
FAR = 400  # steps: longer than the rest of a test

MALFORMED: list[Any] = [
    b"{",
    b"",
    b"[1]",
    {"prompt": ""},
    {"prompt": PROMPT, "stepz": 3},
    {"prompt": PROMPT, "size": "wide"},
    {"prompt": PROMPT, "steps": "three"},
    {"prompt": 7},
]

HUGE: list[Any] = [
    {"prompt": PROMPT, "size": "4096x4096"},
    {"prompt": PROMPT, "steps": 10**9},
    {"prompt": PROMPT, "n": 10**6},
    {"prompt": "a" * 40_000},
    b" " * 2**21,
]

KINDS = ("good", "good", "good", "malformed", "huge", "cancelled", "gone", "two", "streamed")


class Visitor:
    """Asks for all kinds of things, and counts what becomes of them."""

    def __init__(self, client: Client, expected: dict[tuple[int, int, int], np.ndarray], dice: random.Random) -> None:
        self.client, self.expected, self.dice = client, expected, dice
        self.outcomes: Counter[str] = Counter()
        self._counting = threading.Lock()

    def visit(self, number: int, kind: str) -> None:
        """Ask for one thing, or two at once."""
        if kind == "two":
            both = [threading.Thread(target=self.good, args=(self.dice.choice(GOOD),)) for _ in range(2)]
            for each in both:
                each.start()
            for each in both:
                each.join()
        elif kind == "good":
            self.good(self.dice.choice(GOOD))
        elif kind == "streamed":
            self.good(self.dice.choice(GOOD), stream=True)
        elif kind in ("malformed", "huge"):
            self.refused(self.dice.choice(MALFORMED if kind == "malformed" else HUGE))
        else:
            self.given_up(f"{kind}-{number}", gone=kind == "gone", steps=self.dice.randrange(4))

    def count(self, outcome: str) -> None:
        """Take note of how a request ended."""
        with self._counting:
            self.outcomes[outcome] += 1

    def good(self, asked: tuple[int, int, int], stream: bool = False) -> None:
        """A picture, which has to be that of the engine alone."""
        seed, side, steps = asked
        more = {"stream": True} if stream else {}
        answer = self.client.draw(prompt=PROMPT, seed=seed, size=f"{side}x{side}", steps=steps, **more)
        assert answer.status == 200, answer.body
        text = answer.events[-1]["b64_json"] if stream else answer.json["data"][0]["b64_json"]
        assert np.array_equal(pixels(text), self.expected[asked])
        self.count("done")

    def refused(self, body: Any) -> None:
        """What is no request, or too much."""
        answer = self.client.ask("POST", GENERATIONS, body)
        assert answer.status in (400, 413), answer.body
        assert answer.error["message"]
        self.count("refused" if answer.status == 400 else "too large")

    def given_up(self, name: str, *, gone: bool, steps: int) -> None:
        """A long one, after some of its steps."""
        connection = self.client.begin(name, prompt=PROMPT, size="64x64", steps=FAR)
        until(lambda: (self.client.status(name) or {}).get("step", -1) >= steps)
        if gone:
            connection.close()
        else:
            self.client.ask("DELETE", f"/v1/requests/{name}")
            assert self.client.answer(connection).status == 499
        until(lambda: self.client.status(name)["status"] == "cancelled")
        self.count("cancelled")


def state_of(process: psutil.Process) -> tuple[int, int, int]:
    """Processes, open files and resident bytes of a server and its ranks."""
    everyone = [process, *process.children(recursive=True)]
    return len(everyone), sum(each.num_fds() for each in everyone), sum(each.memory_info().rss for each in everyone)


def test_two_hundred_mixed_requests(tmp_path: Path) -> None:
    with Engine("embedded", tokenring_degree=2) as engine:
        expected = {
            (seed, side, steps): np.asarray(
                engine.generate(PROMPT, width=side, height=side, steps=steps, seed=seed, progress=False)[0]
            )
            for seed, side, steps in GOOD
        }
    dice = random.Random(30)
    kinds = [dice.choice(KINDS) for _ in range(REQUESTS)]
    with served(tmp_path, "embedded", *WORDS) as (process, client):
        visitor, whole = Visitor(client, expected, dice), psutil.Process(process.pid)
        for number, kind in enumerate(kinds[:50]):
            visitor.visit(number, kind)
        before, ranks = state_of(whole), ranks_of(process).keys()
        for number, kind in enumerate(kinds[50:], 50):
            visitor.visit(number, kind)
        after = state_of(whole)
        figures = client.figures()
        counted = {o: figures[f'tokenring_requests_total{{kind="image",outcome="{o}"}}'] for o in ("done", "refused")}
        assert counted == {outcome: visitor.outcomes[outcome] for outcome in counted}
        cancelled = figures['tokenring_requests_total{kind="image",outcome="cancelled"}']
        assert cancelled == visitor.outcomes["cancelled"]
        assert figures['tokenring_requests_total{kind="image",outcome="failed"}'] == 0
        assert figures["tokenring_requests_waiting"] == figures["tokenring_requests_running"] == 0
        assert (ranks_of(process).keys(), after[0]) == (ranks, before[0])
        assert after[1] <= before[1] + 8  # connections that are being closed
        assert after[2] <= before[2] * 1.05
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log
        assert log.endswith("ended\n")
