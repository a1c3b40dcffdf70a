"""The model that ships with the package: what it is made of, and what it draws."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from embedded_judge import judge
from embedded_scenes import random_scene
from PIL import Image

from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.flux import FluxModel
from tokenring_xdit.sizes import PictureSize

PICTURES = 20


def test_it_is_a_real_flux_folder_of_25_mb_at_most() -> None:
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5EncoderModel

    assert sum(f.stat().st_size for f in MODEL_PATH.rglob("*") if f.is_file()) <= 25e6
    assert sorted(f.suffix for f in MODEL_PATH.rglob("*.safetensors")) == [".safetensors"] * 4
    assert not list(MODEL_PATH.rglob("*.bin"))
    pipe = FluxPipeline.from_pretrained(MODEL_PATH)
    assert type(pipe.transformer) is FluxTransformer2DModel
    assert type(pipe.vae) is AutoencoderKL
    assert type(pipe.text_encoder) is CLIPTextModel
    assert type(pipe.text_encoder_2) is T5EncoderModel
    dtypes = {p.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder) for p in part.parameters()}
    assert dtypes == {torch.float32}


def test_it_has_image_tokens_for_eight_ranks() -> None:
    model = FluxModel.find(str(MODEL_PATH))
    assert model.default_size == PictureSize(64, 64)
    assert model.image_tokens(model.default_size) == 64
    assert (model.heads, model.text_tokens) == (4, 24)


@pytest.mark.parametrize(
    "kind",
    [
        "one object or two alike",
        *(pytest.param(kind, marks=pytest.mark.matrix) for kind in ("two different", "held-out pairs")),
    ],
)
@pytest.mark.e2e
def test_it_draws_what_the_prompt_says(kind: str) -> None:
    """The model card has the figures of a larger sample."""
    from diffusers import FluxPipeline

    rng = random.Random(77)
    drawn = (random_scene(rng, held_out=kind == "held-out pairs") for _ in range(10 * PICTURES))
    if kind != "held-out pairs":
        drawn = (scene for scene in drawn if (len(set(scene.items)) == 2) == (kind == "two different"))
    scenes = list(islice(drawn, PICTURES))
    pipe = FluxPipeline.from_pretrained(MODEL_PATH)
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = pipe(
        prompt=[scene.caption() for scene in scenes],
        width=64,
        height=64,
        num_inference_steps=20,
        max_sequence_length=24,
        generator=[torch.Generator().manual_seed(i) for i in range(PICTURES)],
    ).images
    right = sum(judge(picture, scene).right for picture, scene in zip(pictures, scenes, strict=True))
    print(f"{kind}: {right} of {PICTURES} right")
    assert right >= 0.9 * PICTURES


def test_the_recipe_and_the_card_are_beside_the_weights() -> None:
    recipe = json.loads((MODEL_PATH / "recipe.json").read_text())
    assert recipe["seed"] == 0
    card = (MODEL_PATH / "README.md").read_text()
    assert "scripts/train_embedded_model.py" in card
    assert Path(__file__).parents[2].joinpath("scripts/train_embedded_model.py").exists()
