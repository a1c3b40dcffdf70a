"""A small Chroma pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_chroma(*, heads: int = 4) -> DiffusionPipeline:
    """A ``ChromaPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    torch.manual_seed(13)
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    tokenizer, text_encoder = text.t5(hidden=TEXT_DIM)
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=text.randomise_weights(vae, seed=131),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=132),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def chroma_inputs(*, text_tokens: int = 32, guidance_scale: float = 5.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_chroma``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Length that the prompts are padded to, behind a mask.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    return text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
