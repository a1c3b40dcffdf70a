"""A small Bria pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import BriaPipeline, BriaTransformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_bria(*, heads: int = 4) -> DiffusionPipeline:
    """A ``BriaPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    torch.manual_seed(18)
    transformer = BriaTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=[4, 6, 6],
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    tokenizer, text_encoder = text.t5(hidden=TEXT_DIM)
    pipe = BriaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=text.randomise_weights(vae, seed=181),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=182),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def bria_inputs(*, text_tokens: int = 32, guidance_scale: float = 5.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_bria``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Length that the prompts are padded to.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    return text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
