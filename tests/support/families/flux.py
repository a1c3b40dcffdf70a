"""Small Flux.1 pipelines: text to image, and control. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from tests.support.families import text
from tests.support.families.peaky import peaky
from tests.support.families.pictures import two_colours
from tests.support.models import small_vae

LATENT_CHANNELS = 4
TEXT_DIM = 32
POOLED_DIM = 24


def make_flux(*, guidance: bool = True, heads: int = 4, controls: int = 0) -> DiffusionPipeline:
    """A ``FluxPipeline``.

    Args:
        guidance: Whether the model takes a guidance scale and its schedule depends on the size, as in dev; in schnell
            neither is so.
        heads: Attention heads of 16 channels.
        controls: How many pictures' latents the transformer sees beside the noisy ones: FLUX.1 Fill has two, a
            masked picture and its mask, which is as large here.
    """
    return _make(FluxPipeline, guidance=guidance, heads=heads, controls=controls)


def flux_inputs(
    *, text_tokens: int = 16, guidance_scale: float = 3.5, true_cfg_scale: float = 1.0, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_flux``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that each prompt is padded or cut to; all of them take part in attention.
        guidance_scale: What a model with guidance is told; one without leaves it unused.
        true_cfg_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    twice = true_cfg_scale > 1
    return {
        **text.picture_call(text_tokens=text_tokens, guidance_scale=guidance_scale, negative=twice, **options),
        **({"true_cfg_scale": true_cfg_scale} if twice else {}),
    }


def make_flux_control(*, guidance: bool = True, heads: int = 4) -> DiffusionPipeline:
    """A ``FluxControlPipeline``, whose transformer sees a picture's latents beside the noisy ones.

    Args:
        guidance: As in `make_flux`; the published control models are of the dev kind.
        heads: Attention heads of 16 channels.
    """
    return _make(FluxControlPipeline, guidance=guidance, heads=heads, controls=1)


def flux_control_inputs(
    *, height: int = 32, width: int = 48, text_tokens: int = 16, guidance_scale: float = 10.0, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_flux_control``'s pipeline, four pixels to a token; one picture for all prompts.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        text_tokens: Tokens that each prompt is padded or cut to; all of them take part in attention.
        guidance_scale: What a model with guidance is told.
        **options: Others of ``text.picture_call``.
    """
    sizes = {"height": height, "width": width, "text_tokens": text_tokens}
    return {
        **text.picture_call(guidance_scale=guidance_scale, negative=False, **sizes, **options),
        "control_image": torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(6)) * 2 - 1,
    }


def make_flux_kontext(*, heads: int = 4) -> DiffusionPipeline:
    """A ``FluxKontextPipeline``, whose tokens are those of the picture that is drawn and of one that it starts from.

    Args:
        heads: Attention heads of 16 channels.
    """
    pipe = _make(FluxKontextPipeline, guidance=True, heads=heads, controls=0)
    peaky(pipe.transformer)
    return pipe


def flux_kontext_inputs(*, height: int = 32, width: int = 48, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_flux_kontext``'s pipeline: those of ``flux_inputs`` and a picture of another size.

    Args:
        height: Height in pixels, four to a token.
        width: Width in pixels, four to a token.
        **options: Other arguments of ``flux_inputs``.
    """
    return {
        **flux_inputs(height=height, width=width, **options),
        "image": two_colours(height - 8, width + 20),
        "max_area": height * width,
        "_auto_resize": False,  # or the picture gets a million pixels
    }


def _make(
    pipeline_class: type,
    *,
    guidance: bool,
    heads: int,
    controls: int,
) -> DiffusionPipeline:
    torch.manual_seed(7)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS * (1 + controls),
        out_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    tokenizer, text_encoder = text.clip(hidden=POOLED_DIM)
    tokenizer_2, text_encoder_2 = text.t5(hidden=TEXT_DIM)
    pipe = pipeline_class(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance else 1.0,
            use_dynamic_shifting=guidance,
        ),
        vae=text.randomise_weights(vae, seed=71),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=text.randomise_weights(transformer, seed=72),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
