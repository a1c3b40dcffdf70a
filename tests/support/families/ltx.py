"""A small LTX-Video pipeline. A token is four by four pixels of two frames, the first of one."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from tests.support.families import text
from tests.support.families.video_text import video_call

LATENT_CHANNELS = 8
TEXT_DIM = 32


def make_ltx(*, heads: int = 4) -> DiffusionPipeline:
    """An ``LTXPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    torch.manual_seed(41)
    transformer = LTXVideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=16,
        cross_attention_dim=16 * heads,
        num_layers=2,
        caption_channels=TEXT_DIM,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
    )
    tokenizer, text_encoder = text.t5(hidden=TEXT_DIM)
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=42),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ltx_inputs(*, prompts: list[str] | None = None, guidance: float = 3.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_ltx``'s pipeline: sides are multiples of 32, frames one more than one of eight.

    Args:
        prompts: The prompts, which are padded behind a mask.
        guidance: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``video_call``.
    """
    negative = text.NEGATIVE_PROMPT if guidance > 1 else None
    prompts = prompts or list(text.PROMPTS[:1])
    return video_call(prompts=prompts, negative_prompt=negative, guidance=guidance, **options)
