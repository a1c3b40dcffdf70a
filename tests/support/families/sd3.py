"""A small Stable Diffusion 3 pipeline with its three text encoders. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tests.support.families import text
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32
CLIP_DIMS = (8, 16)  # of the two CLIP models, whose states lie side by side, padded to the size of T5's


def make_sd3(
    *,
    dual: bool = False,
    heads: int = 4,
    clip_tokens: int = 16,
    channels: int = LATENT_CHANNELS,
) -> DiffusionPipeline:
    """A ``StableDiffusion3Pipeline``.

    Args:
        dual: Whether the first two layers have a second attention over the picture alone and queries and keys are
            normed, as in SD 3.5 medium; else as in SD 3.
        heads: Attention heads of eight channels.
        clip_tokens: Tokens that each prompt is padded or cut to for the CLIP models; the real ones have 77.
        channels: Of the latents; the pipeline for inpainting takes 16 only.
    """
    torch.manual_seed(8)
    transformer = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=3,  # in the last one the text is not carried on
        attention_head_dim=8,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        caption_projection_dim=8 * heads,
        pooled_projection_dim=sum(CLIP_DIMS),
        pos_embed_max_size=64,
        qk_norm="rms_norm" if dual else None,
        dual_attention_layers=(0, 1) if dual else (),
    )
    vae = small_vae(
        latent_channels=channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.5,
        shift_factor=0.1,
    )
    clips = [text.clip(hidden=dim, projection=dim, length=clip_tokens, seed=31 + dim) for dim in CLIP_DIMS]
    tokenizer_3, text_encoder_3 = text.t5(hidden=TEXT_DIM)
    pipe = StableDiffusion3Pipeline(
        transformer=text.randomise_weights(transformer, seed=81),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=text.randomise_weights(vae, seed=82),
        text_encoder=clips[0][1],
        tokenizer=clips[0][0],
        text_encoder_2=clips[1][1],
        tokenizer_2=clips[1][0],
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3_inputs(*, text_tokens: int = 256, guidance_scale: float = 5.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_sd3``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that each prompt is padded or cut to for T5; those of CLIP come before them, and all take
            part in attention. xfuser's pipeline ignores the argument and always has the 256 that are the default.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    return text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
