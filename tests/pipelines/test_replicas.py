"""What an engine says of a replica that failed."""

from __future__ import annotations

from typing import Any, cast

from tokenring_xdit.errors import EngineError
from tokenring_xdit.pipelines.replicas import ReplicaShare, error_of
from tokenring_xdit.workers.messages import Answer, Failed, Gone, Phase
from tokenring_xdit.workers.state import Heard, Limits, RequestAttempt


class RankOfTest:
    """A rank that prints, and has no process."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.pid, self.node = 100 + rank, None

    def printed(self) -> str:
        """What it has printed."""
        return "what it printed\n"


def test_a_rank_that_answers_and_is_killed_then_is_named() -> None:
    """The other one fails because of that, and is not to blame."""
    first, second = RankOfTest(0), RankOfTest(1)
    attempt: RequestAttempt[Any] = RequestAttempt(3, [[first, second]], Limits(100, 1), 0.0)
    attempt.handle(Heard(first, Answer(3, "a picture"), 1.0))
    attempt.handle(Heard(first, Gone(-9), 1.1))
    failed = Failed(kind="CommunicationError", message="rank 0 is gone", time=5.0, number=3, phase=Phase.AFTER)
    attempt.handle(Heard(second, failed, 1.2))
    error = error_of(attempt, 0, ReplicaShare(0, cast(Any, None)))
    assert isinstance(error, EngineError)
    assert str(error).startswith("rank 0 ")
