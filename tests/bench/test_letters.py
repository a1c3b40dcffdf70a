"""Orders and answers as JSON: what goes in comes out, and what nobody wrote is refused and runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenring_xdit.bench.letters import read_letter, write_letter
from tokenring_xdit.bench.orders import Check, Checked, Prepare, Prepared, Time, Timed, Trace

from tokenring_xdit.bench import Shape, Strategy
from tokenring_xdit.bench.scene import SceneShape
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.schedule import Activity, Span, Timeline
from tokenring_xdit.workers.messages import Failed

STRATEGIES = ["single", "ulysses=2+schedule:direct:chunks=4", "xfuser-ring", "schedule:auto"]
SPANS = (Span(0, Activity.WAIT, 0.0, 0.25, "agreement"), Span(1, Activity.SEND, 0.1, 0.3, "Q[1]", "q", 0, 64))
MESSAGES: list[Any] = [
    None,
    Prepare(Shape(2, 64, None, 4, 8, 1, "float32"), 3, True),
    Prepare(SceneShape(2, 88, None, 4, 48, 1, "float32", "embedded", "64x64", 4), 3, False),
    *(order(Strategy.parse(name)) for order in (Check, Time, Trace) for name in STRATEGIES),
    Time(None),
    Prepared("cpu", "cpu", 1),
    Checked(1e-7, 1.5, 64, 4096, {"w0": {"sent": 1, "received": 2}}, 9, "how"),
    Checked(float("nan"), float("inf"), 64, 4096, None, 9, "how"),
    Timed(0.1),
    Traced(Timeline("ring", 2, SPANS), 1e-6, "ring"),
    Failed(kind="ValueError", message="no", time=1.5, traceback="where"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_letter_says_what_was_written(message: Any) -> None:
    letter = write_letter(message)
    assert type(read_letter(letter)) is type(message)
    assert repr(read_letter(letter)) == repr(message)


class Strike:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_what_nobody_wrote_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    strikes = [pickle.dumps(Strike(tmp_path / "struck"), protocol) for protocol in (0, 4)]
    for letter in (
        *strikes,
        b"",
        b"{}",
        b"[]",
        b'{"kind": "Path", "content": "/"}',
        b'{"kind": "Prepare", "content": 3}',
    ):
        with pytest.raises(LaunchError, match="what no rank of this sweep has written"):
            read_letter(letter)
    assert not (tmp_path / "struck").exists()
