from __future__ import annotations

from typing import get_args

import pytest
import torch

from tokenring_xdit.attention import checks
from tokenring_xdit.cli import main
from tokenring_xdit.dtypes import DTYPE_BYTES, DTYPES, DTYPES_IN_SHORT, DtypeName, parse_dtype, torch_dtype
from tokenring_xdit.errors import ConfigurationError


def test_the_table_says_what_torch_says() -> None:
    assert {name: torch_dtype(name).itemsize for name in DTYPES} == DTYPE_BYTES
    assert [str(torch_dtype(name)) for name in DTYPES] == [f"torch.{name}" for name in DTYPES]
    assert (torch.float32, torch.bfloat16, torch.float16) == checks.DTYPES


def test_types_and_tables_name_the_same() -> None:
    assert get_args(DtypeName) == DTYPES
    assert set(DTYPES_IN_SHORT.values()) == set(DTYPES)


@pytest.mark.parametrize(("value", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("float32", "float32")])
def test_dtypes_have_a_short_name_too(value: str, name: str) -> None:
    assert parse_dtype(value) == name


@pytest.mark.parametrize("value", ["int8", "BF16", "", 16, None, ["float32"], "x" * 5000])
def test_what_is_no_dtype_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a dtype\. Known: bfloat16, float16, float32") as raised:
        parse_dtype(value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "command", [["run", "--prompt", "a circle"], ["plan", "--model", "flux", "--topology", "dgx-1"]]
)
def test_commands_refuse_what_is_no_dtype(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--dtype", "flaot16"]) == 2
    assert "'flaot16' is not a dtype" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bf16", "bfloat16"])
def test_a_plan_takes_either_name(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["--tokens", "64", "--heads", "2", "--head-dim", "8", "--tflops", "1", "--json"]
    assert main(["simulate", "ring", "--topology", "mesh:2:1gbit", *numbers, "--dtype", dtype]) == 0
    assert f'"bytes_sent": [{2 * 32 * 2 * 8 * 2}' in capsys.readouterr().out  # keys and values, 2 bytes each
