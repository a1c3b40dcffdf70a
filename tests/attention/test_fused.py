"""The Triton kernels, run by Triton's interpreter where there is no GPU, against sums in fp64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

SCRIPT = """
import contextlib, math, sys, warnings
import torch
from tokenring_xdit.attention import fused

torch.cuda.device = lambda device: contextlib.nullcontext()  # the interpreter works on the CPU
warnings.simplefilter("ignore")  # numpy's, about -inf - -inf
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16):
    # Strided, a width that is no power of two, more rows than a program takes, a part of the heads and tokens.
    out = torch.randn(2, 150, 5, 20).transpose(1, 2)[:, 1:4, 7:]
    lse = torch.randn(2, 5, 150)[:, 1:4, 7:] * 3
    other, other_lse = torch.randn(2, 3, 143, 20).to(dtype), torch.randn(2, 3, 143) * 3
    lse[0, 0, :5], other_lse[0, 0, 3:8] = -math.inf, -math.inf
    out[0, 0, :5] = 0
    other[1, 2, 9], other_lse[1, 1, 11] = math.nan, math.nan
    both = torch.stack([lse, other_lse]).double()
    weights = torch.exp(both - torch.logsumexp(both, 0)).nan_to_num(0.0)
    weights[:, 1, 1, 11] = math.nan
    expected = weights[0, ..., None] * out.double() + weights[1, ..., None] * other.double()
    fused.fold_(out, lse, other, other_lse)
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0, equal_nan=True)
    torch.testing.assert_close(lse.double(), torch.logsumexp(both, 0), atol=2e-6, rtol=0, equal_nan=True)
print("compared")
"""

MERGE = """
import contextlib, math, warnings
import torch
from tokenring_xdit.attention import fused

torch.cuda.device = lambda device: contextlib.nullcontext()
warnings.simplefilter("ignore")
torch.manual_seed(0)
for gap in (None, 0, 1, 3):
    for dtype in (torch.float32, torch.bfloat16):
        # Token-major, one behind the other, with the place of this rank's own left out or not.
        outs, lses = torch.randn(4 * 143, 2, 3, 20).to(dtype).permute(1, 2, 0, 3), torch.randn(4 * 143, 2, 3) * 3
        others = list(zip(outs.split(143, 2), lses.permute(1, 2, 0).split(143, 2)))
        if gap is not None:
            others.pop(gap)
        out, lse = torch.randn(2, 150, 5, 20).transpose(1, 2)[:, 1:4, 7:].to(dtype), torch.randn(2, 3, 143) * 3
        lse[0, 0, :5], others[1][1][0, 0, 3:8] = -math.inf, -math.inf
        for _, other_lse in others:
            other_lse[0, 1, :4] = -math.inf
        lse[0, 1, :2] = -math.inf
        others[0][0][1, 2, 9], others[2][1][1, 1, 11] = math.nan, math.nan
        both = torch.stack([lse, *(other for _, other in others)]).double()
        total = torch.logsumexp(both, 0)
        weights = torch.exp(both - total.masked_fill(total == -math.inf, 0.0))
        every = [out, *(other for other, _ in others)]
        expected = sum(weight[..., None] * each.double() for weight, each in zip(weights, every))
        shuffled = others[2:] + others[:2]
        for asked in (torch.float32, dtype):
            found, found_lse = fused.merge(out, lse, shuffled, asked)
            assert found.dtype == asked and found.stride() == torch.empty_like(out).stride()
            close = 2e-6 if asked == torch.float32 else 2e-2
            torch.testing.assert_close(found.double(), expected, atol=close, rtol=0, equal_nan=True)
            torch.testing.assert_close(found_lse.double(), total, atol=2e-6, rtol=0, equal_nan=True)
        apart = [(other.clone(), other_lse.clone()) for other, other_lse in others]
        apart[0] = apart[0][0].transpose(2, 3).contiguous().transpose(2, 3), apart[0][1]
        assert fused.merge(out, lse, apart, dtype) is None
print("compared")
"""


@pytest.mark.e2e  # the interpreter is slow
@pytest.mark.parametrize("script", [SCRIPT, MERGE], ids=["fold", "merge"])
def test_the_kernels_do_as_the_formulas_say(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "1", "LOG_LEVEL": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compared\n"


class Launches:
    """In the place of a kernel: notes its grids."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.grids.append(grid)
        return lambda *arguments, **options: None


def test_grids_have_one_dimension_which_has_room_for_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's others end at 65535."""
    pytest.importorskip("triton")
    from tokenring_xdit.attention import fused

    launches = Launches()
    monkeypatch.setattr(fused, "_fold", launches)
    monkeypatch.setattr(fused, "_merge", launches)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    out, lse = (
        torch.zeros(1, 1, 33, 128, device="meta").expand(1000, 70, -1, -1),
        torch.zeros(1000, 70, 33, device="meta"),
    )
    fused.fold_(out, lse, out, lse)
    fused.merge(out, lse, [(out, lse)], torch.bfloat16)
    assert launches.grids == [(1000 * 70 * 2,)] * 2


ONE_PARTIAL = ("count", "gap", "heads")
"""Numbers that are 1 where one partial of one head is merged: Triton makes another kernel of them then."""


@pytest.mark.parametrize(
    ("name", "dtype", "capability", "ones"),
    [
        ("_merge", "bf16", 90, ()),
        ("_fold", "bf16", 80, ()),
        pytest.param("_merge", "fp32", 80, ONE_PARTIAL, marks=pytest.mark.e2e),
        pytest.param("_merge", "bf16", 100, ONE_PARTIAL, marks=pytest.mark.e2e),
        pytest.param("_fold", "fp32", 100, ("heads",), marks=pytest.mark.e2e),
    ],
)
def test_the_kernels_compile_for_gpus(
    name: str, dtype: str, capability: int, ones: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the interpreter takes the compiler may not; neither needs a GPU. Inner strides are 1, as in calls."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tokenring_xdit.attention import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(fused, name)
    numbers = {"ROWS": 32, "COLUMNS": 128, **dict.fromkeys((*ones, "result_d", "out_d", "other_out_d"), 1)}
    pointers = {"lse": "*fp32", "other_lse": "*fp32", "total": "*fp32", "other_out": f"*{dtype}"}
    pointers |= {"out": "*fp32" if name == "_fold" else f"*{dtype}", "result": f"*{dtype}"}
    signature = {each: "constexpr" if each in numbers else pointers.get(each, "i32") for each in kernel.arg_names}
    constants = {each: value for each, value in numbers.items() if each in signature}
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert {"ptx", "cubin"} <= {*made.asm}
    assert f"sm_{capability}" in made.asm["ptx"]
