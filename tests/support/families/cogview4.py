"""A small CogView4 pipeline, whose text comes as embeddings. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_cogview4(*, heads: int = 4) -> DiffusionPipeline:
    """A ``CogView4Pipeline`` without a text encoder.

    Args:
        heads: Attention heads of 16 channels.
    """
    torch.manual_seed(15)
    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        text_embed_dim=TEXT_DIM,
        time_embed_dim=32,
        condition_dim=16,
        pos_embed_max_size=64,
        sample_size=32,
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    pipe = CogView4Pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=text.randomise_weights(vae, seed=151),
        transformer=text.randomise_weights(transformer, seed=152),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cogview4_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 32,
    width: int = 48,
    steps: int = 2,
    text_tokens: int = 32,
    guidance_scale: float = 5.0,
    images_per_prompt: int = 1,
) -> dict[str, Any]:
    """Arguments of a call of ``make_cogview4``'s pipeline that returns latents.

    Args:
        prompts: What stands for the prompts; of each the number of letters decides its embeddings.
        height: Height in pixels, four to a token.
        width: Width in pixels, four to a token.
        steps: Denoising steps.
        text_tokens: Tokens of the text.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        images_per_prompt: Pictures made of each prompt.
    """
    found = list(prompts or text.PROMPTS[:1])
    embeds = [text.drawn(text_tokens, TEXT_DIM, seed=len(prompt)) for prompt in found]
    negative = [text.drawn(text_tokens, TEXT_DIM, seed=0)] * len(found)
    return {
        "prompt_embeds": torch.cat(embeds),
        "negative_prompt_embeds": torch.cat(negative),
        "guidance_scale": guidance_scale,
        **text.call_arguments(height=height, width=width, steps=steps, images_per_prompt=images_per_prompt),
    }
