"""A small Qwen-Image pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from tests.support.families import text

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_qwen_image(*, heads: int = 4, layers: int = 2) -> DiffusionPipeline:
    """A ``QwenImagePipeline``.

    Args:
        heads: Attention heads of 16 channels.
        layers: Layers.

    Returns:
        The pipeline.
    """
    torch.manual_seed(11)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.2, 0.1, 0.0, 0.3],
        latents_std=[1.5, 0.8, 1.0, 1.2],
    )
    tokenizer, text_encoder = text.qwen2_5_vl(hidden=TEXT_DIM)
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            time_shift_type="exponential",
            use_dynamic_shifting=True,
        ),
        vae=text.randomise_weights(vae, seed=111),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=text.randomise_weights(transformer, seed=112),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def qwen_image_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 32,
    width: int = 48,
    steps: int = 2,
    text_tokens: int = 64,
    guidance_scale: float = 4.0,
    images_per_prompt: int = 1,
) -> dict[str, Any]:
    """Arguments of a call of ``make_qwen_image``'s pipeline that returns latents.

    Args:
        prompts: The prompts; with several of different lengths the call has a mask.
        height: Height in pixels, four to a token.
        width: Width in pixels, four to a token.
        steps: Denoising steps.
        text_tokens: Most tokens of a prompt, with five of the template that follow it; nothing is padded to them.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        images_per_prompt: Pictures made of each prompt.

    Returns:
        The arguments, good for one call.
    """
    return {
        **text.prompt_arguments(prompts, negative=guidance_scale > 1),
        "true_cfg_scale": guidance_scale,
        "max_sequence_length": text_tokens,
        **text.call_arguments(height=height, width=width, steps=steps, images_per_prompt=images_per_prompt),
    }
