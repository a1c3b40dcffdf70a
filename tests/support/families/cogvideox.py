"""A small CogVideoX pipeline."""

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


def cogvideox_vae() -> Any:
    """An ``AutoencoderKLCogVideoX`` of four channels that shrinks by four in time and eight in space."""
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=128,
        sample_width=96,
    ).eval()
    randomise_weights(vae, seed=51)
    return vae


def make_cogvideox(
    *,
    heads: int = 4,
    use_rotary_positional_embeddings: bool = True,
    text_tokens: int = 32,
    pictures: int = 0,
) -> DiffusionPipeline:
    """A ``CogVideoXPipeline``.

    Args:
        heads: Attention heads of 16 channels.
        use_rotary_positional_embeddings: As in CogVideoX 5B with its DPM scheduler; else as 2B with DDIM.
        text_tokens: Length of the text that the fixed positions of the 2B model start after.
        pictures: How many videos' latents the transformer sees beside the noisy ones, as 5B I2V.
    """
    from diffusers import (
        CogVideoXDDIMScheduler,
        CogVideoXDPMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    tokenizer, text_encoder = make_t5()
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=4 * (1 + pictures),
        out_channels=4,
        time_embed_dim=32,
        text_embed_dim=TEXT_DIM,
        num_layers=2,
        sample_width=12,
        sample_height=16,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=text_tokens,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=use_rotary_positional_embeddings,
    ).eval()
    randomise_weights(transformer, seed=52)
    scheduler = (CogVideoXDPMScheduler if use_rotary_positional_embeddings else CogVideoXDDIMScheduler)(
        prediction_type="v_prediction",
        snr_shift_scale=1.0 if use_rotary_positional_embeddings else 3.0,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    pipe = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=cogvideox_vae(),
        transformer=transformer,
        scheduler=scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cogvideox_inputs(*, guidance: float = 6.0, **options: Any) -> dict[str, Any]:
    """Arguments of a ``CogVideoXPipeline`` call: 16 pixels and four frames (after the first) to a token.

    Args:
        guidance: Scale of the classifier-free guidance, above one to use it.
        **options: Others of ``video_call``; the 2B model needs the ``text_tokens`` given to ``make_cogvideox``.
    """
    return video_call(guidance=guidance, **options)
