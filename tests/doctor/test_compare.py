from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_diff import record
from tests.doctor.checkups import checkup, machine, result
from tokenring_xdit.bench import Status
from tokenring_xdit.cli import main
from tokenring_xdit.doctor.compare import CheckupFigure, compare, in_words
from tokenring_xdit.doctor.record import Checkup, KernelTiming, LaunchTiming, MessageTiming


def one(**more: Any) -> Checkup:
    return checkup(
        machine=machine(4),
        exactness=[result("ring", 1e-7), result("ring", 3e-7), result("mesh", 1e-2)],
        messages=[MessageTiming(size=1024, rate=2e9, both_ways=1e9)],
        kernels=[KernelTiming(kernel="cudnn", problem="4608 tokens", dtype="bfloat16", seconds=4e-4, flops=6e14)],
        launches=[LaunchTiming(schedule="ring", ranks=4, host_seconds=1e-4, seconds=2e-4)],
        strategies=[record([2.0, 3.0, 4.0], "ulysses"), record([6.0], "schedule:token_ring")],
        **more,
    )


def other() -> Checkup:
    return checkup(
        machine=machine(2),
        exactness=[result("ring", 2e-7)],
        kernels=[KernelTiming(kernel="cudnn", problem="4608 tokens", dtype="bfloat16", said="is not built in")],
        strategies=[
            record([0.5], "schedule:token_ring"),
            record(None, "ulysses", Status.REFUSED, error="3 heads\nmore"),
        ],
    )


def test_ratios_are_of_one_file() -> None:
    rows = {(row.part, row.name): row.figures for row in compare(one(), other())}
    assert rows["strategies", "ulysses"] == (CheckupFigure(3.0, 1.0), CheckupFigure(None, said="refused: 3 heads"))
    assert rows["strategies", "schedule:token_ring"] == (CheckupFigure(6.0, 2.0), CheckupFigure(0.5, 1.0))
    assert rows["exactness", "mesh"] == (CheckupFigure(None, said="1 of 1 wrong"), None)
    assert rows["exactness", "ring"] == (
        CheckupFigure(None, said="exact, 3e-07"),
        CheckupFigure(None, said="exact, 2e-07"),
    )
    assert rows["kernels", "cudnn"] == (CheckupFigure(4e-4, 1.0), CheckupFigure(None, said="is not built in"))
    assert rows["launches", "ring"] == (CheckupFigure(2e-4, 1.0), None)


def test_a_kernel_that_is_wrong_has_no_time() -> None:
    problem: dict[str, Any] = {"problem": "4608 tokens", "dtype": "bfloat16"}
    kernels = [
        KernelTiming(kernel="cudnn", seconds=4e-4, error=1e-3, **problem),
        KernelTiming(kernel="flash", seconds=1e-4, error=0.5, exact=False, **problem),
    ]
    found = checkup(machine=machine(1), kernels=kernels)
    rows = {row.name: row.figures[0] for row in compare(found, found)}
    assert rows == {"cudnn": CheckupFigure(4e-4, 1.0), "flash": CheckupFigure(None, said="wrong, 5e-01")}


def test_both_machines_are_named_in_the_table() -> None:
    text = in_words(one(), other())
    assert "A: node<1>, 4 x NVIDIA H100 80GB HBM3, 64 cores, torch 2.13.0, NCCL 2.28.9, 4 ranks over gloo" in text
    assert "B: node<1>, 2 x NVIDIA H100" in text
    line = next(line for line in text.splitlines() if line.startswith("schedule:token_ring"))
    assert line.split() == ["schedule:token_ring", "6000.000", "ms", "x2.00", "500.000", "ms", "x1.00"]


def test_long_reasons_keep_columns_apart() -> None:
    refused = KernelTiming(
        kernel="flash", problem="few tokens", dtype="bfloat16", said="runs on cuda, not on any of these"
    )
    found = checkup(machine=machine(1), kernels=[refused])
    line = next(line for line in in_words(found, found).splitlines() if line.startswith("flash"))
    assert len(line.removeprefix("flash").lstrip()) <= 21 + 22
    assert line.count(" runs on ") == 2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, found in zip(paths, (one(), checkup()), strict=True):
        path.write_text(found.model_dump_json())
    assert main(["bench", "compare-runs", *map(str, paths)]) == 0
    assert "an unknown machine" in capsys.readouterr().out
    (tmp_path / "doctor.json").write_text(one().model_dump_json())
    assert main(["bench", "compare-runs", str(tmp_path), str(paths[1])]) == 0  # the folder of a checkup
    assert "an unknown machine" in capsys.readouterr().out
    assert main(["bench", "compare-runs", *map(str, paths), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(found["machines"]), {row["part"] for row in found["rows"]}] == [
        2,
        {"exactness", "messages", "kernels", "launches", "strategies"},
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is it the doctor.json of a checkup?"),
        ('{"package": 1}', "doctor.json"),
        (None, "cannot be read"),
        (checkup().model_dump_json().replace('"version":1', '"version":2'), "was it written by another version of tok"),
        (
            checkup().model_dump_json().replace('"version":1', '"energy":1'),
            "was it written by another version of token",
        ),
    ],
    ids=["no JSON", "other JSON", "none", "another form", "another field"],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, says: str
) -> None:
    path = tmp_path / "found.json"
    if text is not None:
        path.write_text(text)
    assert main(["bench", "compare-runs", str(path), str(path)]) == 2
    assert says in capsys.readouterr().err
