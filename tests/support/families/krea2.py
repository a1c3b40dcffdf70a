"""A small Krea 2 pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline

from tests.support.families import text
from tests.support.families.qwen_image import LATENT_CHANNELS, image_scheduler, image_vae

TEXT_DIM = 32
TEXT_LAYERS = 3


def make_krea2(*, heads: int = 4) -> DiffusionPipeline:
    """A ``Krea2Pipeline`` without a text encoder; it is given embeddings.

    Args:
        heads: Attention heads of 16 channels, two for each head of keys.
    """
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel

    transformer = Krea2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        intermediate_size=128,
        timestep_embed_dim=32,
        text_hidden_dim=TEXT_DIM,
        num_text_layers=TEXT_LAYERS,
        text_num_attention_heads=4,
        text_num_key_value_heads=4,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    text.randomise_weights(transformer, seed=121)
    for block in transformer.transformer_blocks:  # the scale of its norm is 1 + weight
        block.attn.norm_q.weight.data += 1.0
    pipe = Krea2Pipeline(
        scheduler=image_scheduler(),
        vae=image_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        text_encoder_select_layers=(0, 1, 2),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def krea2_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 32,
    width: int = 48,
    steps: int = 2,
    text_tokens: int = 24,
    shown: int = 0,
    guidance_scale: float = 3.0,
    images_per_prompt: int = 1,
) -> dict[str, Any]:
    """Arguments of a call of ``make_krea2``'s pipeline that returns latents.

    Args:
        prompts: The prompts, of which only the number counts.
        height: Height in pixels, four to a token.
        width: Width in pixels, four to a token.
        steps: Denoising steps.
        text_tokens: Tokens of a prompt; the mask hides some in the middle, others in each prompt.
        shown: So many fewer of them.
        guidance_scale: Scale of classifier-free guidance, which is in use above zero.
        images_per_prompt: Pictures made of each prompt.
    """
    number = len(prompts or text.PROMPTS[:1])
    return {
        **_embeddings("prompt", number, text_tokens, shown, seed=122),
        **(_embeddings("negative_prompt", number, text_tokens, shown, seed=123) if guidance_scale > 0 else {}),
        "guidance_scale": guidance_scale,
        **text.call_arguments(height=height, width=width, steps=steps, images_per_prompt=images_per_prompt),
    }


def _embeddings(name: str, prompts: int, tokens: int, shown: int, *, seed: int) -> dict[str, torch.Tensor]:
    shape = (prompts, tokens, TEXT_LAYERS, TEXT_DIM)
    mask = torch.ones(prompts, tokens, dtype=torch.bool)
    for number, row in enumerate(mask):
        row[seed % 7 + 2 * number + shown : tokens - 5] = False
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return {f"{name}_embeds": embeddings, f"{name}_embeds_mask": mask}
