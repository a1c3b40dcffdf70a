"""What ranks compare before they compute together: arguments to the last bit, inputs up to rounding, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image

from tokenring_xdit.hosts.agreement import describe, difference, summary
from tokenring_xdit.hosts.weights import Weights


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: drawn(seed, 2, 3),
        lambda seed: drawn(seed, 2, 3, dtype=torch.bfloat16),
        lambda seed: drawn(seed, 3, 1).expand(3, 5),
        lambda seed: torch.tensor([seed]).expand(2),
        lambda seed: np.full((2, 2), seed),
        lambda seed: Image.new("RGB", (4, 2), (seed, 0, 0)),
        lambda seed: Image.new("RGB", (4, 2 + seed)),
        lambda seed: torch.Generator().manual_seed(seed),
        lambda seed: [torch.Generator().manual_seed(1), torch.Generator().manual_seed(seed)],
        lambda seed: {"scale": seed / 2},
        lambda seed: f"prompt {seed}",
        lambda seed: [0.5, float(seed)],
    ],
)
def test_arguments_differ_in_their_values(make: Any) -> None:
    assert describe(make(1)) == describe(make(1))
    assert describe(make(1)) != describe(make(2))
    assert "\n" not in describe(make(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=30, deadline=None)
@given(size=st.integers(16, 5000), seed=st.integers(0, 99))
def test_inputs_of_other_noise_differ_and_rounded_ones_do_not(dtype: torch.dtype, size: int, seed: int) -> None:
    one = drawn(seed, size, dtype=dtype)
    rounded = (one.double() * (1 + torch.finfo(dtype).eps)).to(dtype)
    assert difference(summary(one), summary(rounded)) is None
    assert difference(summary(one), summary(drawn(seed + 100, size, dtype=dtype))) is not None


def test_small_changes_of_fp32_are_seen() -> None:
    one = drawn(0, 4, 4096)
    for change in (
        lambda x: x.mul_(1.001),
        lambda x: x[2, 100:101].add_(1),
        lambda x: x[:, :2].copy_(x[:, :2].flip(1)),
    ):
        other = one.clone()
        change(other)
        assert difference(summary(one), summary(other)) is not None


def test_what_is_no_number_is_compared() -> None:
    one = torch.tensor([1.0, float("nan")])
    assert difference(summary(one), summary(one.clone())) is None
    assert difference(summary(one), summary(torch.tensor([1.0, 2.0]))) is not None
    assert difference(summary(torch.tensor([True])), summary(torch.tensor([False]))) is not None
    assert difference(summary([one]), summary([one, one])) is not None
    assert difference(summary(None), summary(one)) is not None


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))


def test_weights_are_told_apart() -> None:
    one, other = model(), model()
    assert Weights(one).summary() == Weights(other).summary()
    kept = Weights(one)
    before = kept.summary()
    with torch.no_grad():
        one[1].weight.mul_(1.01)
    after = kept.summary()
    assert {name for name in after if after[name] != before[name]} == {"1"}


def test_adapters_and_their_strength_are_told_apart() -> None:
    def adapted(scale: float) -> dict[str, str]:
        one = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], lora_alpha=scale), model())
        for name, parameter in one.named_parameters():
            if "lora" in name:
                torch.nn.init.constant_(parameter, 0.1)
        return Weights(one).summary()

    assert adapted(1) == adapted(1)
    assert adapted(1)["adapters"] != adapted(2)["adapters"]
    assert adapted(1) != Weights(model()).summary()
