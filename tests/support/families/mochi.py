"""A small Mochi pipeline. A token is 16 by 16 pixels of six frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.video_text import (
    NEGATIVE_PROMPT,
    TEXT_DIM,
    make_t5,
    prompts_and_negatives,
    randomise_weights,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LATENT_CHANNELS = 12


def make_mochi(*, heads: int = 4) -> DiffusionPipeline:
    """A ``MochiPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    torch.manual_seed(18)
    tokenizer, text_encoder = make_t5()
    vae = AutoencoderKLMochi(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    ).eval()
    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=2,
        pooled_projection_dim=32,
        in_channels=LATENT_CHANNELS,
        text_embed_dim=TEXT_DIM,
        time_embed_dim=16,
        max_sequence_length=32,
    ).eval()
    randomise_weights(transformer, 181)
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def mochi_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 13,
    steps: int = 2,
    text_tokens: int = 32,
    guidance: float = 4.5,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a ``MochiPipeline`` call that returns latents.

    Args:
        prompts: One prompt for each video.
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video, one more than a multiple of six.
        steps: Denoising steps.
        text_tokens: Length that the prompts are padded to.
        guidance: Scale of the classifier-free guidance, above one to use it.
        **options: Other arguments of the call.
    """
    return {
        **prompts_and_negatives(prompts, NEGATIVE_PROMPT),
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "max_sequence_length": text_tokens,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
        **options,
    }
