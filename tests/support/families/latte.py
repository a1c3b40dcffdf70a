"""A small Latte pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.families.video_text import (
    TEXT_DIM,
    make_t5,
    randomise_weights,
    video_call,
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


def latte_inputs(*, frames: int = 4, guidance: float = 5.0, **options: Any) -> dict[str, Any]:
    """Arguments of a ``LattePipeline`` call: 16 pixels and one frame to a token.

    With one prompt the text is as long as its tokens, with several it is 120 tokens long.

    Args:
        frames: Frames of the video, as given to ``make_latte``.
        guidance: Scale of the classifier-free guidance, above one to use it.
        **options: Others of ``video_call``, which the number of tokens is not.
    """
    arguments = video_call(frames=frames, guidance=guidance, text_tokens=None, clean_caption=False, **options)
    arguments["video_length"] = arguments.pop("num_frames")
    return arguments
