"""Small Wan pipelines: Wan 2.1 from text, from an image and VACE, and Wan 2.2 with a time for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.peaky import peaky
from tests.support.families.pictures import two_colours
from tests.support.families.video_text import (
    PROMPTS,
    TEXT_DIM,
    make_clip_vision,
    make_umt5,
    randomise_weights,
    video_call,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LATENT_CHANNELS = 4
I2V_TEXT_TOKENS = 512  # what the attention of the image model takes for granted, in diffusers and in xfuser


def wan_vae(*, compress_more: bool = False) -> Any:
    """An ``AutoencoderKLWan`` that shrinks by four in time and eight in space, or by sixteen as in Wan 2.2 TI2V."""
    from diffusers import AutoencoderKLWan

    sizes: dict[str, Any] = {"base_dim": 4, "z_dim": LATENT_CHANNELS, "num_res_blocks": 1}
    if compress_more:
        sizes |= {"in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True}
        sizes |= {"scale_factor_spatial": 16}
    vae = AutoencoderKLWan(
        dim_mult=[1, 1, 1, 1],
        temperal_downsample=[False, True, True],
        latents_mean=[-0.2, 0.1, 0.0, 0.3],
        latents_std=[1.2, 0.8, 1.0, 1.5],
        **sizes,
    ).eval()
    randomise_weights(vae, seed=31)
    return vae


def _transformer(*, seed: int, heads: int, **config: Any) -> Any:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**_sizes(heads) | config).eval()
    randomise_weights(model, seed)
    return model


def _sizes(heads: int) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": 16,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 64,
    }


def _scheduler() -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def make_wan_t2v(*, heads: int = 4, two_stages: bool = False) -> DiffusionPipeline:
    """A ``WanPipeline``, as Wan 2.1 T2V; with ``two_stages`` it has two transformers, as Wan 2.2 T2V A14B.

    Args:
        heads: Attention heads of 16 channels.
        two_stages: Use another transformer for the low noise (timesteps below 850 of 1000).
    """
    from diffusers import WanPipeline

    tokenizer, text_encoder = make_umt5()
    transformer = _transformer(seed=32, heads=heads)
    second = _transformer(seed=33, heads=heads) if two_stages else None
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=wan_vae(),
        scheduler=_scheduler(),
        transformer=transformer,
        transformer_2=second,
        boundary_ratio=0.85 if two_stages else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_t2v_inputs(*, guidance: float = 5.0, **options: Any) -> dict[str, Any]:
    """Arguments of a ``WanPipeline`` call: 16 pixels and four frames (after the first) to a token.

    Args:
        guidance: Scale of the classifier-free guidance, above one to use it.
        **options: Others of ``video_call``.
    """
    return video_call(guidance=guidance, **options)


def make_wan_i2v(*, heads: int = 4, last: bool = False) -> DiffusionPipeline:
    """A ``WanImageToVideoPipeline`` with an image encoder, as Wan 2.1 I2V.

    Args:
        heads: Attention heads of 16 channels.
        last: Have the transformer see a first and a last picture, as Wan 2.1 FLF2V.
    """
    from diffusers import WanImageToVideoPipeline

    tokenizer, text_encoder = make_umt5()
    image_processor, image_encoder = make_clip_vision()
    vision = image_encoder.config
    of_two = {"pos_embed_seq_len": 2 * (1 + (vision.image_size // vision.patch_size) ** 2)} if last else {}
    vae = wan_vae()
    pipe = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=_scheduler(),
        image_processor=image_processor,
        image_encoder=image_encoder,
        transformer=_transformer(
            seed=34,
            heads=heads,
            in_channels=2 * LATENT_CHANNELS + vae.config.scale_factor_temporal,
            image_dim=image_encoder.config.hidden_size,
            added_kv_proj_dim=16 * heads,
            **of_two,
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_i2v_inputs(
    *, height: int = 128, width: int = 96, text_tokens: int = I2V_TEXT_TOKENS, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_wan_i2v``'s pipeline: those of ``wan_t2v_inputs`` and a picture.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        text_tokens: Length that the prompts are padded to; the model takes 512 for granted.
        **options: Other arguments of ``wan_t2v_inputs``.
    """
    inputs = wan_t2v_inputs(height=height, width=width, text_tokens=text_tokens, **options)
    return {"image": two_colours(height, width), **inputs}


def make_wan_vace(*, heads: int = 4) -> DiffusionPipeline:
    """A ``WanVACEPipeline``: both of its blocks are controlled.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    tokenizer, text_encoder = make_umt5()
    vae = wan_vae()
    transformer = WanVACETransformer3DModel(
        **_sizes(heads),
        vace_layers=[0, 1],
        vace_in_channels=2 * LATENT_CHANNELS + vae.config.scale_factor_spatial**2,
    ).eval()
    randomise_weights(transformer, seed=36)
    peaky(transformer)
    pipe = WanVACEPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, scheduler=_scheduler(), transformer=transformer
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_vace_inputs(*, height: int = 128, width: int = 96, frames: int = 9, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_wan_vace``'s pipeline: those of ``wan_t2v_inputs`` for one prompt, and controls.

    These are a video whose first and last frame are given, the mask that says so, and two pictures of other sizes.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video.
        **options: Other arguments of ``wan_t2v_inputs``.
    """
    from PIL import Image

    inputs = wan_t2v_inputs(height=height, width=width, frames=frames, **options)
    first, grey = two_colours(height, width), Image.new("RGB", (width, height), (128, 128, 128))
    black, white = (Image.new("L", (width, height), level) for level in (0, 255))
    between = frames - 2
    return {
        **inputs,
        **{name: inputs[name][0] for name in ("prompt", "negative_prompt")},
        "video": [first, *[grey] * between, first.rotate(180)],
        "mask": [black, *[white] * between, black],
        "reference_images": [two_colours(48, 80), two_colours(64, 32)],
        "conditioning_scale": [1.0, 0.7],
    }


def make_causal_wan(*, heads: int = 4) -> Any:
    """An ``xFuserCausalWanPipeline`` with two transformers, as CausalWan 2.2, which makes a video chunk by chunk.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler
    from xfuser.model_executor.models.transformers.transformer_causal_wan import xFuserCausalWanTransformer3DWrapper
    from xfuser.model_executor.pipelines.pipeline_causal_wan import xFuserCausalWanPipeline

    tokenizer, text_encoder = make_umt5()
    models = []
    for seed in (37, 38):
        model = xFuserCausalWanTransformer3DWrapper(**_sizes(heads)).eval()
        randomise_weights(model, seed)
        models.append(peaky(model))
    pipe = xFuserCausalWanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=models[0],
        transformer_2=models[1],
        boundary_ratio=0.9,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def causal_wan_inputs(
    *, height: int = 112, width: int = 80, frames: int = 33, image: bool = False, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_causal_wan``'s pipeline: 16 pixels and four frames (after the first) to a token.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video; the first chunk is one frame, the others 12; what is left over is cut.
        image: Give the first frame too.
        **options: Other arguments of the call.
    """
    return {
        **({"image": two_colours(height, width)} if image else {}),
        "prompt": PROMPTS[:1],
        "height": height,
        "width": width,
        "num_frames": frames,
        "guidance_scale": 0.0,
        "max_sequence_length": 32,
        "num_frames_per_block": 3,
        "dmd_denoising_steps": [1000, 600, 250],
        "flow_shift": 3,
        "generator": torch.Generator().manual_seed(5),
        "output_type": "pt",
        **options,
    }


def make_wan_ti2v(*, heads: int = 4, image: bool = False) -> DiffusionPipeline:
    """A ``WanPipeline`` with a time for every token and the VAE of Wan 2.2, as Wan 2.2 TI2V 5B.

    Args:
        heads: Attention heads of 16 channels.
        image: Make a ``WanImageToVideoPipeline``, where the first frame's tokens have the time zero.
    """
    from diffusers import WanImageToVideoPipeline, WanPipeline

    tokenizer, text_encoder = make_umt5()
    pipe = (WanImageToVideoPipeline if image else WanPipeline)(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=wan_vae(compress_more=True),
        scheduler=_scheduler(),
        transformer=_transformer(seed=35, heads=heads),
        expand_timesteps=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_ti2v_inputs(*, height: int = 256, width: int = 192, image: bool = False, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_wan_ti2v``'s pipeline: 32 pixels to a token, otherwise as ``wan_t2v_inputs``.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        image: Give the first frame too.
        **options: Other arguments of ``wan_t2v_inputs``.
    """
    inputs = wan_t2v_inputs(height=height, width=width, **options)
    return {"image": two_colours(height, width), **inputs} if image else inputs
