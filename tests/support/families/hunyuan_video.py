"""A small HunyuanVideo pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.families.video_text import (
    NEGATIVE_PROMPT,
    make_clip,
    make_llama,
    randomise_weights,
    video_call,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def hunyuan_video_vae() -> Any:
    """An ``AutoencoderKLHunyuanVideo`` of four channels that shrinks by four in time and eight in space."""
    from diffusers import AutoencoderKLHunyuanVideo

    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    randomise_weights(vae, seed=41)
    return vae


def make_hunyuan_video(
    *, heads: int = 4, guidance_embeds: bool = True, beside: int = 0, condition: str | None = None
) -> DiffusionPipeline:
    """A ``HunyuanVideoPipeline`` whose tokenizer takes the 95 tokens for the prompt template that diffusers drops.

    Args:
        heads: Attention heads of 16 channels.
        guidance_embeds: Feed the guidance scale to the model, as the released one.
        beside: Channels that the transformer sees beside the noisy ones, in models that start from a picture.
        condition: In which way it sees it.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    tokenizer, text_encoder = make_llama(template=DEFAULT_PROMPT_TEMPLATE["template"])
    tokenizer_2, text_encoder_2 = make_clip()
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4 + beside,
        out_channels=4,
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=2,
        patch_size_t=1,
        qk_norm="rms_norm",
        guidance_embeds=guidance_embeds,
        text_embed_dim=text_encoder.config.hidden_size,
        pooled_projection_dim=text_encoder_2.config.hidden_size,
        rope_theta=256.0,
        rope_axes_dim=(4, 6, 6),
        image_condition_type=condition,
    ).eval()
    randomise_weights(transformer, seed=42)
    pipe = HunyuanVideoPipeline(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        vae=hunyuan_video_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hunyuan_video_inputs(
    *,
    guidance: float = 6.0,
    true_guidance: float = 1.0,
    negative_prompt: str | None = NEGATIVE_PROMPT,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a ``HunyuanVideoPipeline`` call: 16 pixels and four frames (after the first) to a token.

    Args:
        guidance: Scale that the model is told.
        true_guidance: Scale of the classifier-free guidance, above one to use it; the released model goes without.
        negative_prompt: Text to guide away from.
        **options: Others of ``video_call``, whose ``text_tokens`` are without the template before them.
    """
    negative = negative_prompt if true_guidance > 1 else None
    return video_call(guidance=guidance, true_cfg_scale=true_guidance, negative_prompt=negative, **options)
