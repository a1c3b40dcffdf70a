"""A small HunyuanDiT pipeline with its two text encoders. A token is 16 by 16 pixels, as the pipeline has it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
)

from tests.support.families import text

LATENT_CHANNELS = 4
BERT_DIM = 32
T5_DIM = 32
BERT_TOKENS = 77  # both written in the pipeline
T5_TOKENS = 256


def make_hunyuan_dit(
    *,
    scheduler: Literal["ddpm", "ddim"] = "ddpm",
    heads: int = 4,
) -> DiffusionPipeline:
    """A ``HunyuanDiTPipeline``.

    Args:
        scheduler: The published one, which draws noise at each step, or one that draws none.
        heads: Attention heads of eight channels.
    """
    torch.manual_seed(10)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=heads,
        attention_head_dim=8,
        in_channels=LATENT_CHANNELS,
        patch_size=2,
        sample_size=16,
        hidden_size=8 * heads,
        num_layers=4,  # the fewest with a skip from an early layer to a late one
        cross_attention_dim=BERT_DIM,
        cross_attention_dim_t5=T5_DIM,
        pooled_projection_dim=16,
        text_len=BERT_TOKENS,
        text_len_t5=T5_TOKENS,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
    )
    tokenizer, text_encoder = text.bert(hidden=BERT_DIM, length=BERT_TOKENS)
    tokenizer_2, text_encoder_2 = text.t5(hidden=T5_DIM, length=T5_TOKENS)
    scheduler_class = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[scheduler]
    pipe = HunyuanDiTPipeline(
        vae=text.randomise_weights(vae, seed=101),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=102),
        scheduler=scheduler_class(
            beta_start=0.00085,
            beta_end=0.03,
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type="v_prediction",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hunyuan_dit_inputs(
    *, height: int = 128, width: int = 96, guidance_scale: float = 5.0, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_hunyuan_dit``'s pipeline, 16 pixels to a token.

    The pipeline pads each prompt to 77 and 256 tokens, and puts a learned one in the place of each padding token.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``, which the number of tokens is not.
    """
    sizes = {"height": height, "width": width, "text_tokens": None}
    arguments = text.picture_call(guidance_scale=guidance_scale, negative=guidance_scale > 1, **sizes, **options)
    return {**arguments, "use_resolution_binning": False}
