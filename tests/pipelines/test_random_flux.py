"""Flux models with random weights: what a sweep measures steps of where no model can be downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenring_xdit
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.loading import find_model, load_pipeline, pipeline_class_of
from tokenring_xdit.pipelines.random_flux import RandomFlux
from tokenring_xdit.sizes import PictureSize

SMALL = RandomFlux(double=1, single=1, heads=2, head_dim=16, text_tokens=8)
CPU = torch.device("cpu")


@torch.no_grad()
def draw(pipe: Any, prompt: str = "a fox", output_type: str = "latent") -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt,
        width=96,
        height=64,
        num_inference_steps=1,
        max_sequence_length=8,
        generator=torch.Generator().manual_seed(5),
        output_type=output_type,
    ).images


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
    pipe = SMALL.make(torch.float32, CPU)
    facts, config = SMALL.model(), pipe.transformer.config
    assert facts.pixels_per_token == 2 * pipe.vae_scale_factor
    assert (facts.heads, config.num_attention_heads, config.attention_head_dim) == (2, 2, 16)
    assert (facts.head_dim, facts.channels) == (16, config.in_channels)
    assert draw(pipe).shape[1] == facts.image_tokens(PictureSize(96, 64)) == 24
    assert facts.text_tokens == pipe.encode_prompt("a fox", None)[0].shape[1]


def test_it_is_the_same_wherever_it_is_made() -> None:
    state = torch.random.get_rng_state()
    first = draw(SMALL.make(torch.float32, CPU))
    assert torch.equal(first, draw(SMALL.make(torch.float32, CPU)))
    assert not torch.equal(first, draw(SMALL.make(torch.float32, CPU, seed=2)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_pictures_hang_on_the_prompt() -> None:
    pipe = SMALL.make(torch.float32, CPU)
    (fox,), (dog,) = draw(pipe, "a fox", "pil"), draw(pipe, "a dog", "pil")
    assert fox.size == (96, 64)
    assert len(fox.getcolors(1 << 24)) > 50
    assert fox.tobytes() != dog.tobytes()
    assert torch.equal(draw(pipe, "a fox"), draw(pipe))


def test_it_is_found_and_loaded_by_its_name() -> None:
    assert pipeline_class_of(str(SMALL)) == "FluxPipeline"
    assert find_model(str(SMALL)) == SMALL.model()
    assert torch.equal(draw(load_pipeline(str(SMALL), "float32", CPU)), draw(SMALL.make(torch.float32, CPU)))


@pytest.mark.e2e
@pytest.mark.matrix
def test_an_engine_draws_with_it() -> None:
    with tokenring_xdit.Engine(str(SMALL), tokenring_degree=2) as engine:
        asked = {"width": 96, "height": 64, "steps": 1, "seed": 5, "output_type": "latent", "progress": False}
        (found,) = engine.generate("a fox", **asked)
    expected = draw(SMALL.make(torch.float32, CPU))[0]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_mistake_in_attention_shows_in_its_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep calls exact is worth something only then: here each output is off by a thousandth."""
    from diffusers.models.transformers import transformer_flux

    pipe = SMALL.make(torch.float32, CPU)
    right = draw(pipe)
    attend = transformer_flux.dispatch_attention_fn
    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", lambda *a, **k: attend(*a, **k) * 1.001)
    assert ((draw(pipe) - right).abs().max() / right.abs().max()).item() > 1e-4
