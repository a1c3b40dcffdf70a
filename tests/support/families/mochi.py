"""A small Mochi pipeline. A token is 16 by 16 pixels of six frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.video_text import (
    TEXT_DIM,
    make_t5,
    randomise_weights,
    video_call,
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


def mochi_inputs(*, frames: int = 13, guidance: float = 4.5, **options: Any) -> dict[str, Any]:
    """Arguments of a ``MochiPipeline`` call.

    Args:
        frames: Frames of the video, one more than a multiple of six.
        guidance: Scale of the classifier-free guidance, above one to use it.
        **options: Others of ``video_call``.
    """
    return video_call(frames=frames, guidance=guidance, **options)
