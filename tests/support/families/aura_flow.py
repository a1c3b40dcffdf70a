"""A small AuraFlow pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_aura_flow(*, heads: int = 4) -> DiffusionPipeline:
    """An ``AuraFlowPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    torch.manual_seed(14)
    transformer = AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        caption_projection_dim=16 * heads,
        out_channels=LATENT_CHANNELS,
        pos_embed_max_size=256,
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5)
    tokenizer, text_encoder = text.t5(hidden=TEXT_DIM)
    pipe = AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=text.randomise_weights(vae, seed=141),
        transformer=text.randomise_weights(transformer, seed=142),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def aura_flow_inputs(*, text_tokens: int = 32, guidance_scale: float = 3.5, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_aura_flow``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Length that the prompts are padded to, with zeros that take part in attention.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    return text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
