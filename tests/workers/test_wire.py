"""Messages of ranks as plain data."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tokenring_xdit.bench import CallShape, Strategy
from tokenring_xdit.bench.commands import Checked, CheckStrategy, Prepare, Prepared, Timed, TimeStrategy, TraceStrategy
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.graphs import GraphReport
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.messages import Served, ServeRequest, Setup, StepDone
from tokenring_xdit.pipelines.request import Request
from tokenring_xdit.pipelines.text_options import TextOptions
from tokenring_xdit.pipelines.text_orders import ChatMessage, Kept, Question
from tokenring_xdit.plain import to_bytes
from tokenring_xdit.probe.commands import Arrivals, Describe, Description, OneWay, Ping, SendMessages
from tokenring_xdit.schedule import Activity, Span, Timeline
from tokenring_xdit.workers.messages import Answer, Failed, Phase, Progress, Task
from tokenring_xdit.workers.wire import Wire

PICTURES = Wire("tokenring_xdit.pipelines.messages")
TEXTS = Wire("tokenring_xdit.pipelines.text_orders")
SWEEP = Wire("tokenring_xdit.doctor.node_rank")

STRATEGIES = ["single", "ulysses=2+schedule:direct:chunks=4", "xfuser-ring", "schedule:auto"]
SPANS = (Span(0, Activity.WAIT, 0.0, 0.25, "agreement"), Span(1, Activity.SEND, 0.1, 0.3, "Q[1]", "q", 0, 64))
SWEEP_AND_PROBE: list[Any] = [
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
    Description("host", 0, "cpu", "gloo", "2.13"),
    SendMessages(((0, 1), (1, 0)), (64, 128), 12),
    Arrivals({0: [0.1, 0.25], 3: []}),
    Ping((0, 1), 20),
    OneWay([1e-6, 2e-6]),
]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (PICTURES, Task(0, Setup("a model", "float32", ParallelDims(ulysses=2, tokenring=2)))),
        (
            PICTURES,
            Task(
                3, ServeRequest(Request(("a", "b"), options={"sigmas": [1.0, 0.5], "x": (1, range(3))}), frozenset({1}))
            ),
        ),
        (PICTURES, Answer(2, Served([], {"transformer": GraphReport(eager={"too large": 2})}))),
        (PICTURES, Failed(kind="KeyError", message="'x'", time=1.5, phase=Phase.STEPS, number=1)),
        (PICTURES, Progress(1, StepDone(1, 2, None))),
        (PICTURES, Answer(1, None)),
        (TEXTS, Task(4, Question(1, (ChatMessage("user", "hi"),), TextOptions(stop=("x",)), forget=(2,)))),
        (TEXTS, Answer(4, Kept({1: 20}))),
    ],
)
def test_messages_come_out_as_they_went_in(wire: Wire, message: Any) -> None:
    assert wire.unpack(wire.pack(message)) == message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5)])
def test_tensors_keep_every_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape, dtype=torch.float64) * 100).to(dtype)
    read = PICTURES.unpack(PICTURES.pack(tensor.transpose(0, -1) if shape else tensor))
    wanted = tensor.transpose(0, -1) if shape else tensor
    assert read.dtype == dtype and torch.equal(read, wanted)
    read.add_(1) if dtype != torch.bool else read.logical_not_()  # it is writable


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "F", "I"])
def test_pictures_keep_every_pixel(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    read = PICTURES.unpack(PICTURES.pack([[picture]]))[0][0]
    assert (read.mode, read.size) == (picture.mode, picture.size)
    assert np.array_equal(np.asarray(read), np.asarray(picture))


def test_arrays_and_numbers_that_json_has_none_of() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    read = PICTURES.unpack(PICTURES.pack({"a": array, "b": math.inf}))
    assert np.array_equal(read["a"], array) and read["a"].dtype == array.dtype and read["b"] == math.inf


@pytest.mark.parametrize(
    "value",
    [object(), print, slice(1), torch.nn.Linear(1, 1), Image.new("P", (2, 2)), KeyError("x"), ChatMessage],
)
def test_what_could_not_be_read_alike_is_not_packed(value: Any) -> None:
    with pytest.raises(TypeError, match="is not sent to or from ranks on other nodes"):
        PICTURES.pack([value])


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x80\x04\x95",
        to_bytes(("object", ["ChatMessage", {"role": "a", "content": "b"}])),
        to_bytes(("object", ["Task", {"number": 1}])),
        to_bytes(("enum", ["Phase", "never"])),
        to_bytes(("tensor", ["load", [1], b"x"])),
        to_bytes(("tensor", ["float32", [9], b"1234"])),
        to_bytes(("picture", ["RGB", [9, 9], b"x"])),
        to_bytes(("eval", ["1"])),
        to_bytes(("object", ["Path", "/"])),
        to_bytes(("object", ["Task", 3])),
        to_bytes((1, 2, 3)),
    ],
)
def test_what_no_rank_has_packed_is_refused(packed: bytes) -> None:
    with pytest.raises(LaunchError, match="nothing that they say"):
        PICTURES.unpack(packed)


@pytest.mark.parametrize("message", SWEEP_AND_PROBE, ids=lambda message: type(message).__name__)
def test_what_a_sweep_says_is_read_as_it_was_written(message: Any) -> None:
    read = SWEEP.unpack(SWEEP.pack(message))
    assert type(read) is type(message)
    assert repr(read) == repr(message)


class Strike:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_what_is_pickled_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    for protocol in (0, 4):
        with pytest.raises(LaunchError, match="nothing that they say"):
            SWEEP.unpack(pickle.dumps(Strike(tmp_path / "struck"), protocol))
    assert not (tmp_path / "struck").exists()
