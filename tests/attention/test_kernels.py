from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import why_not_on_device
from tokenring_xdit.attention.kernels import KERNELS, Kernel, builtin, choose, registry
from tokenring_xdit.attention.kernels.flash import missing_flash_4, padded
from tokenring_xdit.attention.masks import DeviceKeyMask, KeyMask
from tokenring_xdit.errors import KernelError, UnsupportedError

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


def test_kernels_that_were_not_run_here_are_marked_and_come_behind_what_was() -> None:
    others = {name for name, kernel in KERNELS.items() if not kernel.ran_here}
    assert others == {"varlen", "flash_attn", "flash_3", "flash_4"}
    assert max(KERNELS[name].preference for name in others) < KERNELS["cudnn"].preference


ANYWHERE = Kernel("any", KERNELS["math"].run, frozenset({"cuda"}), frozenset({torch.bfloat16}), preference=1)


@pytest.mark.parametrize(
    ("declared", "found", "refusal"),
    [
        ({}, (7, 0), None),
        ({"least_capability": (8, 0)}, (7, 5), "needs a GPU of compute capability 8.0 or higher"),
        ({"least_capability": (8, 0)}, (9, 0), None),
        (
            {"majors": frozenset({9, 10})},
            (12, 0),
            "needs a GPU of compute capability 9.x or 10.x, and this one has 12.0",
        ),
        ({"majors": frozenset({9, 10})}, (10, 3), None),
        ({"most_head_dim": 64}, (9, 0), "takes heads of up to 64, not of 128"),
        ({"most_head_dim": 64, "wider_heads": {9: 128}}, (9, 0), None),
        ({"most_head_dim": 64, "wider_heads": {9: 96}}, (9, 0), "takes heads of up to 96, not of 128"),
        ({"most_head_dim": 64, "wider_heads": {9: 128}}, (8, 6), "takes heads of up to 64, not of 128"),
        (
            {"least_for_bfloat16": (8, 0)},
            (7, 5),
            "for torch.bfloat16 needs a GPU of compute capability 8.0 or higher",
        ),
        ({"least_for_bfloat16": (8, 0)}, (8, 9), None),
        ({"module": "not_there (not-there)"}, (9, 0), "needs the package not_there (not-there)"),
        ({"module": "not_there.inside (not-there)"}, (9, 0), "needs the package not_there.inside (not-there)"),
        ({"missing": lambda: "needs more"}, (9, 0), "needs more"),
    ],
)
def test_a_kernel_is_refused_by_what_it_declares(
    declared: dict[str, Any], found: tuple[int, int], refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenring_xdit.attention.kernels.registry._capability", lambda device: found)
    kernel = replace(ANYWHERE, **declared)
    assert kernel.refusal(torch.device("cuda"), torch.bfloat16, 128) == refusal


@pytest.mark.parametrize(
    ("found", "dtype", "head_dim", "chosen"),
    [
        ((9, 0), torch.bfloat16, 128, "cudnn"),
        ((9, 0), torch.bfloat16, 256, "cudnn"),
        ((8, 0), torch.bfloat16, 256, "flash"),  # A100
        ((8, 9), torch.float16, 160, "flash"),  # RTX 4090
        ((10, 0), torch.bfloat16, 512, "efficient"),  # B200
        ((12, 0), torch.bfloat16, 128, "cudnn"),  # RTX 5090
        ((7, 5), torch.bfloat16, 64, "math"),  # T4
        ((7, 5), torch.float16, 64, "efficient"),
        ((9, 0), torch.float32, 128, "efficient"),
    ],
)
def test_gpus_take_a_kernel_that_torch_would_take_there(
    found: tuple[int, int], dtype: torch.dtype, head_dim: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that torch does not take raises in the midst of a call."""
    monkeypatch.setattr("tokenring_xdit.attention.kernels.registry._capability", lambda device: found)
    monkeypatch.setattr("tokenring_xdit.attention.kernels.registry._is_there", lambda module: False)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose(None, torch.device("cuda"), dtype, head_dim).name == chosen
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose(None, torch.device("cuda"), dtype, head_dim).name != "cudnn"


def test_kernels_of_gpus_are_given_heads_in_one_piece() -> None:
    """They take no others, and callers may have any strides."""
    apart = torch.randn(2, 3, 8, 5).transpose(2, 3)
    (q, k, v), _ = padded(apart, apart.contiguous(), apart, None)
    assert {each.stride(3) for each in (q, k, v)} == {1}
    assert torch.equal(q, apart)


def test_cudnn_is_not_asked_for_a_single_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no plan for that, and a shard of a few tokens may be cut to one."""
    q, k = (torch.empty(1, 2, tokens, 8, device="meta", dtype=torch.bfloat16) for tokens in (5, 1))
    monkeypatch.setattr(builtin, "_padded", lambda op, *tensors: op.func)  # type: ignore[attr-defined]
    asked = [KERNELS["cudnn"].run(q, keys, keys, scale=None, causal=False) for keys in (q, k)]
    assert asked == [
        torch.ops.aten._scaled_dot_product_cudnn_attention,
        torch.ops.aten._scaled_dot_product_efficient_attention,
    ]


def counted_error(name: str, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Of output and log-sum-exp, where items have no key, one, some and all of them, and the rest is NaN."""
    counts = torch.tensor([0, 1, 17, 50], dtype=torch.int32, device=device)
    q = torch.randn(4, 3, 70, 40, device=device, dtype=dtype) * 3
    k, v = (torch.randn(4, 3, 50, 40, device=device, dtype=dtype) for _ in range(2))
    counted = KERNELS[name].counted
    assert counted is not None
    if name == "math":  # others are given finite ones
        behind = torch.arange(50, device=device) >= counts[:, None]
        k, v = (t.masked_fill(behind[:, None, :, None], math.nan) for t in (k, v))
    out, lse = counted(q, k, v, counts, scale=0.4)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, dtype, q.shape[:3], torch.float32)
    assert not out[0].any()
    assert (lse[0] == -math.inf).all()
    off = [0.0, 0.0]
    for item, count in enumerate(counts.tolist()[1:], 1):
        own = (t[item : item + 1] for t in (q, k[:, :, :count], v[:, :, :count]))
        expected = softmax_attention(*own, scale=0.4)
        for i, (one, other) in enumerate(zip((out, lse), expected, strict=True)):
            off[i] = max(off[i], relative_error(one[item : item + 1], other))
    return off[0], off[1]


def test_counted_keys() -> None:
    assert max(counted_error("math", "cpu", torch.float32)) <= 1e-5


def test_masks_put_the_keys_that_count_first() -> None:
    real = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=torch.bool)
    k = torch.arange(15.0).reshape(3, 1, 5, 1).expand(3, 2, 5, 1)
    found, values, counts = KeyMask(real).counted(k, k + 100)
    assert counts.tolist() == [2, 0, 4]
    assert counts.dtype == torch.int32
    assert found[:, 1, :, 0].tolist() == [[1, 3, 1, 1], [5, 5, 5, 5], [10, 11, 12, 14]]
    assert torch.equal(values, found + 100)


def test_masks_on_the_device_do_so_without_being_looked_at() -> None:
    real = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=torch.bool)
    k = torch.arange(15.0).reshape(3, 1, 5, 1)
    assert DeviceKeyMask(real).counted(k, k)[0][..., 0].tolist() == [
        [[1, 3, 1, 1, 1]],
        [[5] * 5],
        [[10, 11, 12, 14, 10]],
    ]
    assert DeviceKeyMask(real).counted(k, k)[2].tolist() == [2, 0, 4]
    anywhere = torch.empty(3, 2, 5, 8, device="meta")
    found, _, counts = DeviceKeyMask(real[:1].to("meta")).counted(anywhere, anywhere)
    assert (found.shape, counts.shape, counts.dtype) == (anywhere.shape, (3,), torch.int32)
    assert counts.is_contiguous()  # of one mask for all items, too: kernels read it as it lies in memory
    with pytest.raises(UnsupportedError, match="key_mask is on cpu, and its keys are on meta: move it there"):
        DeviceKeyMask(real).check(anywhere, "key_mask")


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("token_ring", None),
        ("auto:measure=true", None),
        ("no_such", None),  # refused by the call
        ("auto:nodes=2", "schedule 'auto:nodes=2' sends keys between nodes"),
        ("ring", "schedule 'ring' sends keys, or cuts them"),
        ("heads", "schedule 'heads' sends keys, or cuts them"),
    ],
)
def test_where_masks_may_stay_on_the_device(schedule: str, reason: str | None) -> None:
    q = torch.randn(1, 4, 8, 8)
    assert why_not_on_device(schedule, 2, q, q) == reason


def test_causal_masks_that_differ_are_refused() -> None:
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8)
    for name in ("varlen", "flash_attn", "flash_3", "flash_4"):
        with pytest.raises(KernelError, match="there are 4 queries and 6 keys: use kernel 'math'"):
            KERNELS[name].run(q, k, k, scale=None, causal=True)


def as_flash_3(q: Tensor, k: Tensor, v: Tensor, softmax_scale: Any = None, causal: bool = False, **_: Any) -> Any:
    """FlashAttention's order of dimensions and results, and its widths of heads, computed by softmax in fp64."""
    assert q.shape[3] % 8 == 0
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    visible = torch.ones(q.shape[2], k.shape[2]).tril().bool() if causal else None
    out, lse = softmax_attention(q, k, v, scale=softmax_scale, visible=visible)
    return out.to(q.dtype).transpose(1, 2), lse.float(), None


def with_argument(q: Tensor, k: Tensor, v: Tensor, *, return_attn_probs: bool = False, **options: Any) -> Any:
    """The same of later releases."""
    return as_flash_3(q, k, v, **options) if return_attn_probs else pytest.fail("no log-sum-exp was asked for")


def as_flash_4(q: Tensor, k: Tensor, v: Tensor, *, seqused_k: Any = None, return_lse: bool = False, **rest: Any) -> Any:
    """FlashAttention 4's own entry."""
    assert return_lse
    assert q.shape[3] % 8 == 0
    if seqused_k is None:
        return as_flash_3(q, k, v, **rest)[:2]
    scale = rest["softmax_scale"]
    items = [as_flash_3(q[i : i + 1], k[i : i + 1, :n], v[i : i + 1, :n], scale) for i, n in enumerate(seqused_k) if n]
    out, lse = (torch.cat([torch.full_like(items[0][at], math.inf), *(item[at] for item in items)]) for at in (0, 1))
    return out, lse


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("name", "module", "entry", "function"),
    [
        ("flash_attn", "flash_attn", "flash_attn_func", with_argument),
        ("flash_3", "flash_attn_interface", "flash_attn_func", as_flash_3),
        ("flash_3", "flash_attn_interface", "flash_attn_func", with_argument),
        ("flash_4", "flash_attn.cute.interface", "_flash_attn_fwd", as_flash_4),
    ],
)
def test_packages_are_called_as_they_are_documented(
    name: str, module: str, entry: str, function: Any, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages run on GPUs only; what they are given and give back is that of their sources."""
    for parent in ("flash_attn", "flash_attn.cute"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setattr(sys.modules[module], entry, function, raising=False)
    q, k, v = (torch.randn(2, 3, 33, 20) for _ in range(3))
    out, lse = KERNELS[name].run(q, k, v, scale=None, causal=causal)
    expected = softmax_attention(q, k, v, visible=torch.ones(33, 33).tril().bool() if causal else None)
    for one, other in zip((out, lse), expected, strict=True):
        assert relative_error(one, other) <= 1e-5
    if name == "flash_4":
        assert max(counted_error(name, "cpu", torch.float32)) <= 1e-5


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Puts files of packages where Python looks for them."""

    def install(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    for module in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    caches = registry._is_there, missing_flash_4
    for cached in caches:
        cached.cache_clear()
    yield install
    for cached in caches:
        cached.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        del sys.modules[module]


FLASH_2 = {"flash_attn/__init__.py": "", "flash_attn/cute/__init__.py": ""}
FLASH_4 = {"flash_attn_4-4.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: flash-attn-4\nVersion: 4.0\n"}
CUTE = "flash_attn/cute/interface.py"
FORWARD = "def _flash_attn_fwd(q, k, v, seqused_k=None, return_lse=False): pass"


@pytest.mark.parametrize(
    ("files", "second", "fourth"),
    [
        ({}, "needs the package flash_attn (flash-attn)", "needs the package flash_attn.cute (flash-attn-4)"),
        # FlashAttention 2.8.3 has the folder, and neither what it needs nor its later names
        ({**FLASH_2, CUTE: "import cutlass"}, None, "needs the package flash_attn.cute (flash-attn-4)"),
        # flash-attn-4 alone makes a folder without a module of its own
        ({**FLASH_4, CUTE: FORWARD}, "needs the package flash_attn (flash-attn)", None),
        ({**FLASH_2, **FLASH_4, CUTE: FORWARD}, None, None),
        (
            {**FLASH_4, CUTE: "raise AttributeError('no attribute ThrMma')"},
            "needs the package flash_attn (flash-attn)",
            "cannot be imported (AttributeError: no attribute ThrMma): install flash-attn-4 anew, with what it needs",
        ),
        (
            {**FLASH_4, CUTE: "def _flash_attn_fwd(q, k, v): pass"},
            "needs the package flash_attn (flash-attn)",
            "needs a flash-attn-4 whose kernel takes return_lse and seqused_k",
        ),
    ],
    ids=["none", "2", "4", "both", "broken", "early"],
)
def test_packages_that_share_a_folder_are_told_apart(
    files: Mapping[str, str],
    second: str | None,
    fourth: str | None,
    installed: Callable[[Mapping[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenring_xdit.attention.kernels.registry._capability", lambda device: (9, 0))
    installed(files)
    found = [KERNELS[name].refusal(torch.device("cuda"), torch.bfloat16, 128) for name in ("flash_attn", "flash_4")]
    assert found == [second, fourth]


def test_only_kernels_that_may_be_taken_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some packages take seconds to import."""
    monkeypatch.setattr("tokenring_xdit.attention.kernels.registry._capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    asked: list[str] = []
    for name, kernel in KERNELS.items():
        lacking = replace(kernel, missing=lambda name=name: asked.append(name))  # type: ignore[misc]
        monkeypatch.setitem(KERNELS, name, lacking)
    assert choose(None, torch.device("cuda"), torch.bfloat16, 128).name == "cudnn"
    assert asked == ["cudnn"]


@pytest.mark.parametrize("head_dim", [40, 20])
@pytest.mark.parametrize("name", ["efficient", "cudnn", "flash", "varlen"])
def test_gpu_kernels_fit_the_signatures_of_the_installed_torch(name: str, head_dim: int) -> None:
    """Run without computing, on the meta device, which knows arguments and shapes of every op."""
    q = torch.empty(2, 3, 70, head_dim, device="meta", dtype=torch.bfloat16)
    k = torch.empty(2, 3, 50, head_dim, device="meta", dtype=torch.bfloat16)
    if KERNELS[name].missing() is not None:
        pytest.skip(str(KERNELS[name].missing()))
    results = [KERNELS[name].run(q, k, k, scale=None, causal=False)]
    counted = KERNELS[name].counted
    if counted is not None:
        results.append(counted(q, k, k, torch.ones(2, dtype=torch.int32, device="meta"), scale=None))
    for out, lse in results:
        assert (out.shape, out.dtype) == (q.shape, q.dtype)
        assert (lse.shape, lse.dtype) == (q.shape[:-1], torch.float32)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if "cuda" in kernel.devices])
def test_gpu_kernels(name: str, dtype: torch.dtype) -> None:
    kernel = KERNELS[name]
    reason = kernel.refusal(torch.device("cuda"), dtype, 40)
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
    if kernel.counted is not None:
        assert max(counted_error(name, "cuda", dtype)) <= max(tolerance, 1e-5)
