"""A small Cosmos 3 pipeline, which makes sound beside the video where that is asked for. A token is 16 pixels wide."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline

from tests.support.families import text
from tests.support.families.peaky import peaky
from tests.support.families.pictures import two_colours
from tests.support.families.wan import wan_vae


def make_cosmos3(*, heads: int = 4, layers: int = 2, **config: Any) -> DiffusionPipeline:
    """A ``Cosmos3OmniPipeline`` without a safety checker.

    Args:
        heads: Attention heads of 16 channels, two for each head of keys.
        layers: Layers.
        **config: Of the transformer.
    """
    from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler

    tokenizer, _ = text.qwen3()
    vae = wan_vae()
    channels = vae.config.z_dim
    transformer = Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=16 * heads,
        intermediate_size=32 * heads,
        latent_channel=channels,
        patch_latent_dim=4 * channels,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        num_hidden_layers=layers,
        rope_axes_dim=(4, 2, 2),
        vocab_size=len(tokenizer),
        timestep_scale=0.001,
        **config,
    )
    text.randomise_weights(transformer, seed=131)
    pipe = Cosmos3OmniPipeline(
        transformer=peaky(transformer),
        text_tokenizer=tokenizer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        enable_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cosmos3_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 5,
    steps: int = 2,
    guidance_scale: float = 4.0,
    image: bool = False,
) -> dict[str, Any]:
    """Arguments of a call of ``make_cosmos3``'s pipeline that returns latents.

    Args:
        prompts: The prompt; there can be but one.
        height: Height in pixels, 16 to a token.
        width: Width in pixels, 16 to a token.
        frames: Frames of the video, one more than a multiple of four.
        steps: Denoising steps.
        guidance_scale: Scale of classifier-free guidance.
        image: Start from a picture.
    """
    (prompt,) = prompts or text.PROMPTS[:1]
    return {
        **({"image": two_colours(height, width)} if image else {}),
        "prompt": prompt,
        "negative_prompt": "blurry",
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "use_system_prompt": False,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }
