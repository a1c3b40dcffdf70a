"""A small Latte pipeline."""

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


def latte_vae() -> Any:
    """An ``AutoencoderKL`` of four channels that shrinks pictures by eight on each side."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    randomise_weights(vae, seed=61)
    return vae


def make_latte(*, heads: int = 4, frames: int = 4) -> DiffusionPipeline:
    """A ``LattePipeline``.

    Args:
        heads: Attention heads of 16 channels.
        frames: Frames of each video; the model has a position for every one and takes no other number.
    """
    from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

    tokenizer, text_encoder = make_t5(max_length=120)
    transformer = LatteTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16 * heads,
        attention_bias=True,
        sample_size=16,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_DIM,
        video_length=frames,
    ).eval()
    randomise_weights(transformer, seed=62)
    pipe = LattePipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=latte_vae(),
        transformer=transformer,
        scheduler=DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latte_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 4,
    steps: int = 2,
    guidance: float = 5.0,
    negative_prompt: str = NEGATIVE_PROMPT,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a ``LattePipeline`` call: 16 pixels and one frame to a token.

    With one prompt the text is as long as its tokens, with several it is 120 tokens long.

    Args:
        prompts: One prompt for each video.
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video, as given to ``make_latte``.
        steps: Denoising steps.
        guidance: Scale of the classifier-free guidance, above one to use it.
        negative_prompt: Text to guide away from.
        **options: Other arguments of the call.
    """
    return {
        **prompts_and_negatives(prompts, negative_prompt),
        "height": height,
        "width": width,
        "video_length": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "clean_caption": False,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
        **options,
    }
