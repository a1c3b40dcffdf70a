"""Small Flux.2 pipelines: dev (Mistral 3 as its text encoder) and klein (Qwen3). A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)

from tests.support.families import text

LATENT_CHANNELS = 4
ENCODER_DIM = 32
ENCODER_LAYERS = (0, 1, 2)  # the hidden states of the encoder that the transformer sees, side by side


def make_flux2(*, heads: int = 4) -> DiffusionPipeline:
    """A ``Flux2Pipeline`` (dev); see `text.mistral3` for what stands in the place of its processor.

    Args:
        heads: Attention heads of 16 channels.
    """
    return _make(Flux2Pipeline, text.mistral3(hidden=ENCODER_DIM), True, heads)


def flux2_inputs(*, text_tokens: int = 48, guidance_scale: float = 4.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_flux2``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that a prompt is padded or cut to with its system message, which takes 31 tokens before
            the prompt; all of them take part in attention.
        guidance_scale: What the model is told.
        **options: Others of ``text.picture_call``.
    """
    arguments = text.picture_call(text_tokens=text_tokens, guidance_scale=guidance_scale, negative=False, **options)
    return {**arguments, "text_encoder_out_layers": ENCODER_LAYERS}


def make_flux2_klein(*, distilled: bool = False, heads: int = 4) -> DiffusionPipeline:
    """A ``Flux2KleinPipeline``.

    Args:
        distilled: Whether the model does without classifier-free guidance.
        heads: Attention heads of 16 channels.
    """
    encoder = text.qwen3(hidden=ENCODER_DIM, causal=True)
    return _make(Flux2KleinPipeline, encoder, False, heads, is_distilled=distilled)


def flux2_klein_inputs(*, text_tokens: int = 32, guidance_scale: float = 4.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_flux2_klein``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that a prompt is padded or cut to with its chat template, which puts three tokens before
            it and nine after; all of them take part in attention.
        guidance_scale: Scale of classifier-free guidance against the empty prompt (the pipeline takes no other),
            which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    arguments = text.picture_call(text_tokens=text_tokens, guidance_scale=guidance_scale, negative=False, **options)
    return {**arguments, "text_encoder_out_layers": ENCODER_LAYERS}


def flux2_vae() -> AutoencoderKLFlux2:
    """That of FLUX.2, which halves the sides of pictures."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
    )
    return text.randomise_weights(vae, seed=73)


def _make(
    pipeline_class: type,
    tokenizer_and_encoder: tuple[Any, Any],
    guidance: bool,
    heads: int,
    **options: Any,
) -> DiffusionPipeline:
    torch.manual_seed(7)
    tokenizer, text_encoder = tokenizer_and_encoder
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=len(ENCODER_LAYERS) * ENCODER_DIM,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    pipe = pipeline_class(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=74),
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
