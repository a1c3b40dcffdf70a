"""Commands and answers as JSON: what goes in comes out, and what nobody wrote is refused and runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tokenring_xdit.bench import CallShape, Strategy
from tokenring_xdit.bench.commands import Checked, CheckStrategy, Prepare, Prepared, Timed, TimeStrategy, TraceStrategy
from tokenring_xdit.bench.rank import MESSAGES as SWEEP
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.lab.probe.commands import Arrivals, Describe, Description, OneWay, Ping, SendMessages
from tokenring_xdit.lab.probe.rank import MESSAGES as PROBE
from tokenring_xdit.schedule import Activity, Span, Timeline
from tokenring_xdit.workers.codec import Codec
from tokenring_xdit.workers.messages import Failed

STRATEGIES = ["single", "ulysses=2+schedule:direct:chunks=4", "xfuser-ring", "schedule:auto"]
SPANS = (Span(0, Activity.WAIT, 0.0, 0.25, "agreement"), Span(1, Activity.SEND, 0.1, 0.3, "Q[1]", "q", 0, 64))
MESSAGES: list[Any] = [
    None,
    Prepare(CallShape(2, 64, None, 4, 8, 1, "float32"), 3, True),
    Prepare(WorkloadShape(2, 88, None, 4, 48, 1, "float32", "embedded", "64x64", 4), 3, False),
    *(order(Strategy.parse(name)) for order in (CheckStrategy, TimeStrategy, TraceStrategy) for name in STRATEGIES),
    TimeStrategy(None),
    Prepared("cpu", "cpu", 1),
    Checked(1e-7, 1.5, 64, 4096, {"w0": {"sent": 1, "received": 2}}, 9, "how"),
    Checked(float("nan"), float("inf"), 64, 4096, None, 9, "how"),
    Timed(0.1),
    Traced(Timeline("ring", 2, SPANS), 1e-6, "ring"),
    Failed(kind="ValueError", message="no", time=1.5, traceback="where"),
    Describe(),
    Description("host", "cpu", "gloo", "2.13"),
    SendMessages(((0, 1), (1, 0)), (64, 128), 12),
    Arrivals({0: [0.1, 0.25], 3: []}),
    Ping((0, 1), 20),
    OneWay([1e-6, 2e-6]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_read_is_what_was_written(message: Any) -> None:
    codec = Codec((*SWEEP, *PROBE))
    read = codec.read(codec.write(message))
    assert type(read) is type(message)
    assert repr(read) == repr(message)


class Strike:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_what_nobody_wrote_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    strikes = [pickle.dumps(Strike(tmp_path / "struck"), protocol) for protocol in (0, 4)]
    for written in (
        *strikes,
        b"",
        b"{}",
        b"[]",
        b'{"kind": "Path", "content": "/"}',
        b'{"kind": "Prepare", "content": 3}',
    ):
        with pytest.raises(LaunchError, match="what none of them has written"):
            Codec(SWEEP).read(written)
    assert not (tmp_path / "struck").exists()
