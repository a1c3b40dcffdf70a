"""Flux models with random weights: what a sweep measures steps of where no model can be downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.random_flux import RandomFlux
from tokenring_xdit.sizes import PictureSize

SMALL = RandomFlux(double=1, single=1, heads=2, head_dim=16, text_tokens=8)
CPU = torch.device("cpu")


@torch.no_grad()
def draw(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    embeds, pooled = SMALL.text(3, torch.float32, CPU)
    latents: Tensor = pipe(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        width=96,
        height=64,
        num_inference_steps=1,
        max_sequence_length=8,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images
    return latents


@pytest.mark.parametrize(
    "text",
    [
        "random-flux",
        "random-flux:heads=24",
        "random-flux:double=19,single=38,heads=24,head_dim=128,text_tokens=512",
    ],
)
def test_a_model_is_written_as_it_is_read(text: str) -> None:
    model = RandomFlux.parse(text)
    assert RandomFlux.parse(str(model)) == model
    for option in text.partition(":")[2].split(",") if ":" in text else ():
        assert option in str(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flux", "is no random-flux"),
        ("random-flux:", "model 'random-flux' has no option ''"),
        ("random-flux:head=4", "Did you mean 'heads'"),
        ("random-flux:heads=0", "heads=0 of model 'random-flux' has to be a whole number from 1 to"),
        ("random-flux:heads=4,heads=4", "write each option once, as heads=VALUE"),
        ("random-flux:heads", "write each option once, as heads=VALUE"),
        ("random-flux:head_dim=20", "head_dim has to be a multiple of 8"),
    ],
)
def test_models_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RandomFlux.parse(text)


def test_facts_are_those_of_the_pipeline() -> None:
    pipe = SMALL.make(0, torch.float32, CPU)
    facts, config = SMALL.facts(), pipe.transformer.config
    assert facts.pixels_per_token == 2 * pipe.vae_scale_factor
    assert (facts.heads, config.num_attention_heads, config.attention_head_dim) == (2, 2, 16)
    assert draw(pipe).shape[1] == facts.image_tokens(PictureSize(96, 64)) == 24
    assert facts.text_tokens == SMALL.text(0, torch.float32, CPU)[0].shape[1]


def test_it_is_the_same_wherever_it_is_made() -> None:
    state = torch.random.get_rng_state()
    first = draw(SMALL.make(1, torch.float32, CPU))
    assert torch.equal(first, draw(SMALL.make(1, torch.float32, CPU)))
    assert not torch.equal(first, draw(SMALL.make(2, torch.float32, CPU)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_mistake_in_attention_shows_in_its_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep calls exact is worth something only then: here each output is off by a thousandth."""
    from diffusers.models.transformers import transformer_flux

    pipe = SMALL.make(0, torch.float32, CPU)
    right = draw(pipe)
    attend = transformer_flux.dispatch_attention_fn
    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", lambda *a, **k: attend(*a, **k) * 1.001)
    assert ((draw(pipe) - right).abs().max() / right.abs().max()).item() > 1e-4
