"""A size says the width first, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenring_xdit.bench import SweepConfig
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.cli import main
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.sizes import PictureSize


@pytest.mark.parametrize(
    ("value", "size"), [("64", (64, 64)), (64, (64, 64)), ("96x64", (96, 64)), (" 1024X768 ", (1024, 768))]
)
def test_sizes(value: object, size: tuple[int, int]) -> None:
    assert PictureSize.parse(value) == PictureSize(*size)


@pytest.mark.parametrize(
    "value", ["", "x", "64x", "x64", "-8", "64x64x64", "0", "6.5", "9" * 5000, -8, True, 6.5, None, [64, 64]]
)
def test_sizes_that_are_none(value: object) -> None:
    with pytest.raises(ConfigurationError, match="neither a number of pixels nor WIDTHxHEIGHT") as raised:
        PictureSize.parse(value)
    assert len(str(raised.value)) < 300


def test_a_number_of_more_digits_than_python_writes_is_no_size() -> None:
    with pytest.raises(ConfigurationError, match="neither a number of pixels nor WIDTHxHEIGHT"):
        PictureSize.parse(-(10**5000))


@pytest.mark.parametrize(
    "command", [["run", "--prompt", "a red circle"], ["plan", "--model", "flux", "--topology", "dgx-1"]]
)
@pytest.mark.parametrize(("size", "side"), [("160x99999", "height"), ("99999x160", "width")])
def test_commands_read_the_width_first(
    command: list[str], size: str, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--size", size]) == 2
    said = capsys.readouterr().err
    assert f"the {side} has to be" in said or f"{side} is 99999 pixels" in said


def test_a_config_reads_the_width_first(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: embedded\nprompt: a red circle\nsize: 96x64\n")
    size = read_config(RunConfig, path, ()).size
    assert size is not None
    assert (size.width, size.height) == (96, 64)


def test_a_sweep_reads_the_width_first(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"level: pipeline\nmodels: embedded\nsizes: 96x64\nranks: 1\nstrategies: single\noutput: {tmp_path}"
    )
    (shape,) = read_config(SweepConfig, path, ()).comparisons()
    assert isinstance(shape, WorkloadShape)
    assert shape.size == "96x64"
