"""xfuser on a machine without an accelerator, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BEFORE_IMPORT = """
import torch
{disguise}
from tokenring_xdit.hosts.xfuser import register
register()
register()
import xfuser
from xfuser import envs
from xfuser.model_executor.layers import usp
assert envs.get_torch_distributed_backend() == "gloo"
assert str(envs.get_device(1)) == "cpu" and envs.get_device_name() == "cpu"
assert envs.CUDA_VERSION is not None
assert usp.PROCESS_GROUP is not None
assert usp.ring_attn.__wrapped__.__module__ == usp.__name__
from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType
attend = ATTENTION_FUNCTION_REGISTRY[AttentionBackendType.SDPA_FLASH]
queries, keys = torch.randn(2, 4, 5, 8), torch.randn(1, 4, 7, 8)  # one text for several videos
expected = torch.nn.functional.scaled_dot_product_attention(queries, *[keys.expand(2, -1, -1, -1)] * 2)
assert torch.allclose(attend(queries, keys, keys, 0.0, False)[0], expected, atol=1e-5)
torch.cuda.synchronize()
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
start.record(); end.record()
assert start.elapsed_time(end) >= 0
from xfuser.model_executor.models.runner_models import krea2
assert krea2.torch.Generator(device="cuda").device.type == "cpu"  # as its runner asks
assert krea2.torch.bfloat16 is torch.bfloat16 and isinstance(krea2.torch.Generator(), torch.Generator)
print("ran")
"""

AFTER_IMPORT = """
import sys, types
sys.modules["xfuser.envs"] = types.ModuleType("xfuser.envs")
from tokenring_xdit.hosts.xfuser import register
register()
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LOG_LEVEL": "error", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


@pytest.mark.parametrize(
    "disguise",
    [pytest.param("", marks=pytest.mark.matrix), "torch.version.cuda = '13.0'"],
    ids=["as-installed", "cuda-build-without-gpu"],
)
@pytest.mark.e2e
def test_xfuser_runs_on_gloo(disguise: str) -> None:
    result = python(BEFORE_IMPORT.format(disguise=disguise))
    assert result.stdout.strip().endswith("ran"), result.stderr[-2000:]


@pytest.mark.e2e
def test_registering_too_late_is_refused() -> None:
    result = python(AFTER_IMPORT)
    assert "xfuser was imported before" in result.stderr
