"""Small PixArt pipelines, alpha and sigma. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_pixart_alpha(*, conditions: bool = False, heads: int = 4) -> DiffusionPipeline:
    """A ``PixArtAlphaPipeline``.

    Args:
        conditions: Whether the model is told size and aspect ratio, as the one for 1024 pixels; the parts of their
            embedding make it need a width that three divides.
        heads: Attention heads of eight channels, or 24 with conditions.
    """
    # Alpha's pipeline passes the conditions on where the sample size is 128.
    size = 128 if conditions else 32
    return _make(PixArtAlphaPipeline, size, conditions, heads)


def pixart_alpha_inputs(*, text_tokens: int = 16, guidance_scale: float = 4.5, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_pixart_alpha``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that each prompt is padded or cut to; a mask hides the padding from attention.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    arguments = text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
    return {**arguments, "clean_caption": False, "use_resolution_binning": False}


def make_pixart_sigma(*, heads: int = 4) -> DiffusionPipeline:
    """A ``PixArtSigmaPipeline``.

    Args:
        heads: Attention heads of eight channels.
    """
    return _make(PixArtSigmaPipeline, 128, False, heads)


pixart_sigma_inputs = pixart_alpha_inputs
"""Both pipelines take the same arguments."""


def _make(pipeline_class: type, sample_size: int, conditions: bool, heads: int) -> DiffusionPipeline:
    torch.manual_seed(9)
    head_dim = 24 if conditions else 8
    transformer = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=2,
        cross_attention_dim=head_dim * heads,
        sample_size=sample_size,
        patch_size=2,
        caption_channels=TEXT_DIM,
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=conditions,
    )
    tokenizer, text_encoder = text.t5(hidden=TEXT_DIM)
    pipe = pipeline_class(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=text.randomise_weights(small_vae(), seed=91),
        transformer=text.randomise_weights(transformer, seed=92),
        scheduler=DPMSolverMultistepScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
