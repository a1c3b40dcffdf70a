"""A small ChronoEdit pipeline. A token is 16 by 16 pixels of four frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.families.video_text import TEXT_DIM, make_clip_vision, make_umt5, randomise_weights
from tests.support.families.wan import LATENT_CHANNELS, wan_i2v_inputs, wan_vae

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def make_chronoedit(*, heads: int = 4) -> DiffusionPipeline:
    """A ``ChronoEditPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import ChronoEditPipeline, ChronoEditTransformer3DModel, UniPCMultistepScheduler

    tokenizer, text_encoder = make_umt5()
    image_processor, image_encoder = make_clip_vision()
    vae = wan_vae()
    transformer = ChronoEditTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=2 * LATENT_CHANNELS + vae.config.scale_factor_temporal,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=image_encoder.config.hidden_size,
        added_kv_proj_dim=16 * heads,
        rope_max_seq_len=64,
    ).eval()
    randomise_weights(transformer, 191)
    pipe = ChronoEditPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        image_processor=image_processor,
        transformer=transformer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def chronoedit_inputs(*, frames: int = 13, steps: int = 3, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_chronoedit``'s pipeline, whose last steps leave all frames but two out.

    Args:
        frames: Frames of the first step.
        steps: Denoising steps.
        **options: Others of ``wan_i2v_inputs``.
    """
    found = wan_i2v_inputs(frames=frames, steps=steps, **options)
    return {**found, "enable_temporal_reasoning": True, "num_temporal_reasoning_steps": 1}
