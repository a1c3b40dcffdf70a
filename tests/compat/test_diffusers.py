from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import diffusers.utils
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tokenring_xdit.compat import diffusers as compat
from tokenring_xdit.pipelines.embedded import MODEL_PATH


@pytest.fixture(params=["own", "diffusers'"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, as it is with a diffusers that has ``apply_lora_scale`` and with one that has not."""
    if request.param == "own":
        monkeypatch.delattr(diffusers.utils, "apply_lora_scale", raising=False)
    elif not hasattr(diffusers.utils, "apply_lora_scale"):
        pytest.skip("this diffusers has none")
    yield importlib.reload(compat)
    monkeypatch.undo()
    importlib.reload(compat)


class Model(nn.Module):
    """A layer with a LoRA, and the argument that scales it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen: Any = None

    def forward(self, x: torch.Tensor, joint_attention_kwargs: Any = None) -> torch.Tensor:
        """The layer."""
        self.seen = joint_attention_kwargs
        if x.isnan().any():
            raise ValueError("not finite")
        return self.layer(x)


def test_a_scale_is_for_one_call(module: Any) -> None:
    torch.manual_seed(0)
    model = Model()
    x, plain = torch.randn(3, 4), Model()
    plain.load_state_dict(model.state_dict())
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False), model)
    forward = module.apply_lora_scale("joint_attention_kwargs")(Model.forward)
    with torch.no_grad():
        base, whole = plain(x), model(x)
        half = forward(model, x, joint_attention_kwargs={"scale": 0.5, "other": 1})
        torch.testing.assert_close(half, base + (whole - base) / 2)
        assert (half - whole).abs().max() > 1e-2
        assert model.seen == {"other": 1}
        with pytest.raises(ValueError, match="not finite"):
            forward(model, x * float("nan"), joint_attention_kwargs={"scale": 0.5})
        torch.testing.assert_close(forward(model, x), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_has_the_dtype_that_was_asked_for(dtype: torch.dtype) -> None:
    pipe = compat.from_pretrained(FluxPipeline, str(MODEL_PATH), dtype)
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {dtype}
