"""The Triton kernel, run by Triton's interpreter where there is no GPU, against sums in fp64."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_the_kernel_folds_as_the_formula_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "1", "LOG_LEVEL": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compared\n"
