"""A small SkyReels V2 pipeline. A token is 16 by 16 pixels of four frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.families.video_text import TEXT_DIM, make_clip_vision, make_umt5, randomise_weights
from tests.support.families.wan import LATENT_CHANNELS, wan_t2v_inputs, wan_vae

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def make_skyreels_v2(*, heads: int = 4, forcing: bool = False, picture: bool = False) -> DiffusionPipeline:
    """A ``SkyReelsV2Pipeline``.

    Args:
        heads: Attention heads of 16 channels.
        forcing: Make a ``SkyReelsV2DiffusionForcingPipeline``, where each frame has a time of its own.
        picture: Have the transformer see a picture, as that of ``SkyReelsV2ImageToVideoPipeline``.
    """
    from diffusers import (
        SkyReelsV2DiffusionForcingPipeline,
        SkyReelsV2Pipeline,
        SkyReelsV2Transformer3DModel,
        UniPCMultistepScheduler,
    )

    tokenizer, text_encoder = make_umt5()
    vae = wan_vae()
    seen: dict[str, Any] = {}
    if picture:
        seen = {"image_dim": make_clip_vision()[1].config.hidden_size, "added_kv_proj_dim": 16 * heads}
    transformer = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=2 * LATENT_CHANNELS + vae.config.scale_factor_temporal if picture else LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
        inject_sample_info=forcing,
        **seen,
    ).eval()
    randomise_weights(transformer, 171)
    pipe = (SkyReelsV2DiffusionForcingPipeline if forcing else SkyReelsV2Pipeline)(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def skyreels_v2_inputs(**options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_skyreels_v2``'s pipeline, as ``wan_t2v_inputs``."""
    return wan_t2v_inputs(**options)
