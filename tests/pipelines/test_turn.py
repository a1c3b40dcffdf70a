"""Who is given up after a request, and for what; without processes of pipelines."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tokenring_xdit.liveness import LIMIT_VARIABLE, ProcessIdentity
from tokenring_xdit.pipelines.messages import Failed, Phase
from tokenring_xdit.pipelines.turn import Part, Turn
from tokenring_xdit.workers.watch import Stopped


class Rank:
    """A rank that sleeps."""

    def __init__(self, number: int) -> None:
        self.rank = number
        self.process = subprocess.Popen(["sleep", "60"])
        self.identity = ProcessIdentity.of(self.process.pid)


@pytest.fixture
def ranks() -> Iterator[list[Rank]]:
    made = [Rank(number) for number in range(4)]
    yield made
    for rank in made:
        rank.process.kill()
        rank.process.wait()


def world(ranks: list[Rank]) -> Any:
    return SimpleNamespace(ranks=tuple(ranks), replica=0, cancel=lambda number: None)


def failed(kind: str, message: str, phase: Phase = Phase.AFTER) -> Failed:
    return Failed(number=1, phase=phase, kind=kind, message=message, time=time.time(), traceback=None)


@pytest.mark.parametrize(
    ("kinds", "intact"),
    [
        (("ConfigurationError", "ConfigurationError"), True),
        (("OutOfMemoryError", "OutOfMemoryError"), True),
        (("OutOfMemoryError", "CommunicationError"), False),  # its groups were given up
    ],
)
def test_ranks_whose_groups_were_given_up_serve_no_other_request(
    ranks: list[Rank], kinds: tuple[str, str], intact: bool
) -> None:
    part: Any = Part(world(ranks[:2]), range(1))
    part.outcomes = {rank: failed(kind, "why") for rank, kind in zip(ranks, kinds, strict=False)}
    assert part.intact is intact


def test_a_stopped_rank_of_any_replica_is_found(ranks: list[Rank], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0.5")
    parts: list[Any] = [Part(world(ranks[:2]), range(1)), Part(world(ranks[2:]), range(1, 2))]
    turn = Turn(1, parts, queue.SimpleQueue(), timeout=60)
    os.kill(ranks[3].process.pid, signal.SIGSTOP)
    end = time.monotonic() + 20
    while not parts[1].outcomes and time.monotonic() < end:
        turn._give_up_stopped(parts)
        time.sleep(0.05)
    assert isinstance(parts[1].outcomes[ranks[3]], Stopped)
    assert not parts[0].outcomes
