"""Small HunyuanVideo 1.5 pipelines. A token is 16 by 16 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.peaky import peaky
from tests.support.families.pictures import two_colours
from tests.support.families.video_text import TEXT_DIM, randomise_weights

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LATENT_CHANNELS = 4
GLYPH_DIM = 24


def make_hunyuan_video15(*, heads: int = 4, image: bool = False, target_size: int = 128) -> DiffusionPipeline:
    """A ``HunyuanVideo15Pipeline``, or a ``HunyuanVideo15ImageToVideoPipeline``.

    It has no text encoders and is given embeddings.

    Args:
        heads: Attention heads of 16 channels.
        image: Whether it starts from a picture.
        target_size: Root of the pixels that a frame has which is as that picture.
    """
    import diffusers
    from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline

    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=LATENT_CHANNELS, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
    ).eval()
    randomise_weights(vae, seed=43)
    processor, encoder = _siglip() if image else (None, None)
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_DIM,
        text_embed_2_dim=GLYPH_DIM,
        image_embed_dim=TEXT_DIM,
        rope_axes_dim=(4, 6, 6),
        target_size=target_size,
        task_type="i2v" if image else "t2v",
    ).eval()
    randomise_weights(transformer, seed=44)
    peaky(transformer, 2.0)
    common: dict[str, Any] = {
        "text_encoder": None,
        "tokenizer": None,
        "transformer": transformer,
        "vae": vae,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": None,
        "tokenizer_2": None,
        "guider": diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    }
    if image:
        pipe = HunyuanVideo15ImageToVideoPipeline(image_encoder=encoder, feature_extractor=processor, **common)
    else:
        pipe = HunyuanVideo15Pipeline(**common)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _siglip() -> tuple[Any, Any]:
    """A tiny image processor (it needs no torchvision) and ``SiglipVisionModel``."""
    import transformers
    from transformers import SiglipVisionConfig, SiglipVisionModel

    # The name of transformers 5 for what 4 has as the plain one.
    kind = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor
    encoder = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
    ).eval()
    randomise_weights(encoder, seed=45)
    return kind(size={"height": 32, "width": 32}), encoder


def hunyuan_video15_inputs(
    *,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 5,
    steps: int = 2,
    text_tokens: int = 24,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a ``HunyuanVideo15Pipeline`` call: 16 pixels and four frames (after the first) to a token.

    Args:
        prompts: One prompt for each video, of which only the number counts.
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video, one more than a multiple of four.
        steps: Denoising steps.
        text_tokens: Length that the prompts are padded to; masks hide some of them, others in each prompt.
        **options: Other arguments of the call.
    """
    number = len(prompts or [""])
    return {
        **_embeddings("prompt", number, text_tokens, seed=46),
        **_embeddings("negative_prompt", number, text_tokens - 6, seed=47),
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
        **options,
    }


def hunyuan_video15_image_inputs(*, height: int = 128, width: int = 96, **options: Any) -> dict[str, Any]:
    """Those of the pipeline that starts from a picture, whose shape decides that of the video."""
    inputs = hunyuan_video15_inputs(**options)
    return {
        **{name: value for name, value in inputs.items() if name not in {"height", "width"}},
        "image": two_colours(height, width),
    }


def make_hunyuan_video15_image(**options: Any) -> DiffusionPipeline:
    """As :func:`make_hunyuan_video15`, from a picture."""
    return make_hunyuan_video15(image=True, **options)


def _embeddings(name: str, prompts: int, tokens: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Of the text and of the glyphs in it, which only the first prompt has."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for suffix, length, width in (("", tokens, TEXT_DIM), ("_2", 8, GLYPH_DIM)):
        mask = torch.ones(prompts, length, dtype=torch.long)
        for number, row in enumerate(mask):
            row[length - 3 - 5 * number :] = 0
        found[f"{name}_embeds{suffix}"] = torch.randn(prompts, length, width, generator=generator)
        found[f"{name}_embeds_mask{suffix}"] = mask
    return found
