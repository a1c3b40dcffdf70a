from __future__ import annotations

import math

import pytest
import torch

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention.kernels import KERNELS, choose
from tokenring_xdit.errors import KernelError

CPU = torch.device("cpu")
HERE = [name for name, kernel in KERNELS.items() if "cpu" in kernel.devices]


@pytest.mark.parametrize(
    ("queries", "keys", "causal"),
    [(1, 1, False), (1, 1, True), (33, 33, False), (33, 33, True), (7, 40, False), (600, 70, False)],
)
@pytest.mark.parametrize("name", HERE)
def test_output_and_log_sum_exp(name: str, queries: int, keys: int, causal: bool) -> None:
    q, k, v = torch.randn(2, 3, queries, 20), torch.randn(2, 3, keys, 20), torch.randn(2, 3, keys, 20)
    visible = torch.ones(queries, keys).tril().bool() if causal else None
    expected, expected_lse = softmax_attention(q, k, v, scale=0.3, visible=visible)
    out, lse = KERNELS[name].run(q, k, v, scale=0.3, causal=causal)
    assert relative_error(out, expected) <= 1e-5
    assert relative_error(lse, expected_lse) <= 1e-5
    assert lse.dtype == torch.float32


def test_the_plain_kernel_works_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenring_xdit.attention.kernels.builtin._MATH_SCORES", 500)
    q, k, v = (torch.randn(2, 3, 50, 8) for _ in range(3))
    out, lse = KERNELS["math"].run(q, k, v, scale=None, causal=True)
    expected, expected_lse = softmax_attention(q, k, v, visible=torch.ones(50, 50).tril().bool())
    assert relative_error(out, expected) <= 1e-5
    assert relative_error(lse, expected_lse) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cpu_takes_the_fused_kernel(dtype: torch.dtype) -> None:
    assert choose(None, CPU, dtype).name == "cpu"


def test_refusals_say_why() -> None:
    with pytest.raises(KernelError, match="'efficient' runs on cuda, not on cpu"):
        choose("efficient", CPU, torch.float32)
    with pytest.raises(KernelError, match="Did you mean 'flash_attn'"):
        choose("flash_atn", CPU, torch.float32)
    with pytest.raises(KernelError, match=r"no attention kernel takes torch\.float64"):
        choose(None, CPU, torch.float64)


def test_kernels_that_were_not_run_here_are_marked() -> None:
    assert {name for name, kernel in KERNELS.items() if not kernel.ran_here} == {"flash_attn"}


@pytest.mark.parametrize("head_dim", [40, 20])
@pytest.mark.parametrize("name", ["efficient", "cudnn", "flash"])
def test_gpu_kernels_fit_the_signatures_of_the_installed_torch(name: str, head_dim: int) -> None:
    """Run without computing, on the meta device, which knows arguments and shapes of every op."""
    q = torch.empty(2, 3, 70, head_dim, device="meta", dtype=torch.bfloat16)
    k = torch.empty(2, 3, 50, head_dim, device="meta", dtype=torch.bfloat16)
    out, lse = KERNELS[name].run(q, k, k, scale=None, causal=False)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert (lse.shape, lse.dtype) == (q.shape[:-1], torch.float32)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if "cuda" in kernel.devices])
def test_gpu_kernels(name: str, dtype: torch.dtype) -> None:
    kernel = KERNELS[name]
    reason = kernel.refusal(torch.device("cuda"), dtype)
    if reason is not None:
        pytest.skip(f"{name} {reason}")
    q, k, v = (torch.randn(2, 3, 70, 40, device="cuda", dtype=dtype) for _ in range(3))
    out, lse = kernel.run(q, k, v, scale=None, causal=False)
    expected, expected_lse = softmax_attention(q, k, v)
    tolerance = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    assert relative_error(out, expected) <= tolerance
    assert lse.shape == expected_lse.shape
    assert relative_error(lse, expected_lse) <= max(tolerance, 1e-5)
    assert math.isfinite(lse.sum().item())
