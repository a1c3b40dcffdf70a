"""A small HunyuanVideo 1.5 pipeline, whose text comes as embeddings. A token is 16 by 16 pixels of four frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.text import PROMPTS, drawn
from tests.support.families.video_text import TEXT_DIM, randomise_weights

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LATENT_CHANNELS = 4
BYTES_DIM = 24
IMAGE_DIM = 16
IMAGE_TOKENS = 5  # of 729; they are hidden where there is no picture
BYTES_TOKENS = 7


def make_hunyuan_video15(*, heads: int = 4) -> DiffusionPipeline:
    """A ``HunyuanVideo15Pipeline`` without text encoders.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )
    from diffusers.guiders import ClassifierFreeGuidance

    torch.manual_seed(16)
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 8, 8, 8, 8),
        layers_per_block=1,
        spatial_compression_ratio=16,
        temporal_compression_ratio=4,
    ).eval()
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_DIM,
        text_embed_2_dim=BYTES_DIM,
        image_embed_dim=IMAGE_DIM,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
        task_type="t2v",
    ).eval()
    randomise_weights(transformer, seed=161)
    pipe = HunyuanVideo15Pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    pipe.vision_num_semantic_tokens = IMAGE_TOKENS
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hunyuan_video15_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 9,
    steps: int = 2,
    text_tokens: int = 32,
) -> dict[str, Any]:
    """Arguments of a ``HunyuanVideo15Pipeline`` call that returns latents.

    Args:
        prompts: What stands for the prompts: of each the number of letters decides its embeddings and how many of its
            tokens are real.
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video, one more than a multiple of four.
        steps: Denoising steps.
        text_tokens: Length that the prompts are padded to.
    """
    found = list(prompts or PROMPTS[:1])
    of_text = _padded([len(prompt) for prompt in found], text_tokens, TEXT_DIM)
    of_bytes = _padded([len(prompt) % 5 for prompt in found], BYTES_TOKENS, BYTES_DIM)
    negative = _padded([9] * len(found), text_tokens, TEXT_DIM)
    no_bytes = _padded([0] * len(found), BYTES_TOKENS, BYTES_DIM)
    names = ("prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds", "negative_prompt_embeds_2")
    pairs = zip(names, (of_text, of_bytes, negative, no_bytes), strict=True)
    given = {name: value for name, (value, _) in pairs}
    for name, (_, mask) in zip(names, (of_text, of_bytes, negative, no_bytes), strict=True):
        given[name.replace("embeds", "embeds_mask")] = mask
    return {
        **given,
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }


def _padded(lengths: list[int], tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings ``[B, tokens, width]``, and which of them are real."""
    embeds = torch.cat([drawn(tokens, width, seed=length) for length in lengths])
    mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    return embeds, mask.long()
