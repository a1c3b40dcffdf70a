"""Small Qwen-Image pipelines and edits. A token is four by four pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)

from tests.support.families import text
from tests.support.families.peaky import peaky
from tests.support.families.pictures import two_colours

LATENT_CHANNELS = 4
TEXT_DIM = 32


def make_qwen_image(*, heads: int = 4) -> DiffusionPipeline:
    """A ``QwenImagePipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    tokenizer, text_encoder = text.qwen2_5_vl(hidden=TEXT_DIM)
    pipe = QwenImagePipeline(
        scheduler=image_scheduler(),
        vae=image_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=_transformer(heads=heads),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _transformer(*, heads: int, **config: Any) -> QwenImageTransformer2DModel:
    torch.manual_seed(11)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=(4, 6, 6),
        **config,
    )
    return text.randomise_weights(transformer, seed=112)


def image_vae() -> AutoencoderKLQwenImage:
    """That of Qwen-Image, which halves the sides of pictures."""
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.2, 0.1, 0.0, 0.3],
        latents_std=[1.5, 0.8, 1.0, 1.2],
    )
    return text.randomise_weights(vae, seed=111)


def image_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """That of Qwen-Image."""
    return FlowMatchEulerDiscreteScheduler(
        base_shift=0.5,
        max_shift=0.9,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
        use_dynamic_shifting=True,
    )


@lru_cache(maxsize=1)
def start_from_small_pictures() -> None:
    """Have pictures that an edit starts from scaled to 64 by 64 pixels, or as many, in place of a million."""
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_inpaint, pipeline_qwenimage_edit_plus):
        original = module.calculate_dimensions
        module.calculate_dimensions = lambda area, ratio, original=original: original(64 * 64, ratio)


def make_qwen_image_edit(*, heads: int = 4, several: bool = False, zero_cond_t: bool = False) -> DiffusionPipeline:
    """A ``QwenImageEditPipeline``, or a ``QwenImageEditPlusPipeline``, which takes several pictures.

    It has no text encoder, which would look at the pictures too, and is given embeddings.

    Args:
        heads: Attention heads of 16 channels.
        several: Whether it takes several pictures, as the checkpoints 2509 and 2511.
        zero_cond_t: Whether tokens of those pictures have the time zero, as in 2511.
    """
    start_from_small_pictures()
    pipe = (QwenImageEditPlusPipeline if several else QwenImageEditPipeline)(
        scheduler=image_scheduler(),
        vae=image_vae(),
        text_encoder=None,
        tokenizer=None,
        processor=None,
        transformer=peaky(_transformer(heads=heads, **({"zero_cond_t": True} if zero_cond_t else {}))),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_qwen_image_edit_plus(**options: Any) -> DiffusionPipeline:
    """As :func:`make_qwen_image_edit`, for several pictures."""
    return make_qwen_image_edit(several=True, **options)


def qwen_image_inputs(*, text_tokens: int = 64, guidance_scale: float = 4.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_qwen_image``'s pipeline, four pixels to a token.

    With several prompts of different lengths the call has a mask.

    Args:
        text_tokens: Most tokens of a prompt, with five of the template that follow it; nothing is padded to them.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    arguments = text.picture_call(
        text_tokens=text_tokens, guidance_scale=guidance_scale, negative=guidance_scale > 1, **options
    )
    arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
    return arguments


def qwen_image_edit_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 32,
    width: int = 48,
    steps: int = 2,
    text_tokens: int = 32,
    guidance_scale: float = 4.0,
    images_per_prompt: int = 1,
) -> dict[str, Any]:
    """Arguments of a call of ``make_qwen_image_edit``'s pipeline for one picture that returns latents.

    Args:
        prompts: The prompts, of which only the number counts.
        height: Height in pixels, four to a token.
        width: Width in pixels, four to a token.
        steps: Denoising steps.
        text_tokens: Tokens of a prompt; the mask hides some of them, others in each prompt.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        images_per_prompt: Pictures made of each prompt.
    """
    number = len(prompts or text.PROMPTS[:1])
    return {
        "image": two_colours(64, 64),
        **_embeddings("prompt", number, text_tokens, seed=113),
        **(_embeddings("negative_prompt", number, text_tokens - 5, seed=114) if guidance_scale > 1 else {}),
        "true_cfg_scale": guidance_scale,
        **text.call_arguments(height=height, width=width, steps=steps, images_per_prompt=images_per_prompt),
    }


def qwen_image_edit_plus_inputs(**options: Any) -> dict[str, Any]:
    """As :func:`qwen_image_edit_inputs`, with two pictures of other sizes."""
    return {**qwen_image_edit_inputs(**options), "image": [two_colours(64, 64), two_colours(20, 80)]}


def _embeddings(name: str, prompts: int, tokens: int, *, seed: int) -> dict[str, torch.Tensor]:
    embeddings = torch.randn(prompts, tokens, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(prompts, tokens, dtype=torch.long)
    for number, row in enumerate(mask):
        row[tokens - 3 - 4 * number :] = 0
    return {f"{name}_embeds": embeddings, f"{name}_embeds_mask": mask}
