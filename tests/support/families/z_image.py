"""A small Z-Image pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_z_image(*, heads: int = 4, layers: int = 2, refiner_layers: int = 1) -> DiffusionPipeline:
    """A ``ZImagePipeline``.

    Args:
        heads: Attention heads of 16 channels.
        layers: Layers over picture and text together.
        refiner_layers: Layers before them over the picture alone, and as many over the text alone.
    """
    torch.manual_seed(12)
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=LATENT_CHANNELS,
        dim=16 * heads,
        n_layers=layers,
        n_refiner_layers=refiner_layers,
        n_heads=heads,
        n_kv_heads=heads,
        cap_feat_dim=TEXT_DIM,
        axes_dims=[4, 6, 6],
        axes_lens=[512, 64, 64],
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    tokenizer, text_encoder = text.qwen3(hidden=TEXT_DIM)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=text.randomise_weights(vae, seed=121),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=122),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def z_image_inputs(
    *, width: int = 24, text_tokens: int = 64, guidance_scale: float = 5.0, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_z_image``'s pipeline, four pixels to a token.

    The pipeline writes the chat template into the lists of prompts it is given, so each call needs new arguments. The
    model pads picture and text to a multiple of 32 tokens each, with learned tokens that take part in attention; it
    masks what a prompt has fewer than the longest one of the call.

    Args:
        width: Width in pixels.
        text_tokens: Most tokens of a prompt with its chat template, which puts three before it and five after.
        guidance_scale: Scale of classifier-free guidance, which is in use above zero.
        **options: Others of ``text.picture_call``.
    """
    sizes = {"width": width, "text_tokens": text_tokens}
    return text.picture_call(guidance_scale=guidance_scale, negative=guidance_scale > 0, **sizes, **options)
