"""A small LTX-2 pipeline, which makes sound beside the video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.families.pictures import two_colours
from tests.support.families.video_text import (
    TEXT_DIM,
    make_gemma3,
    randomise_weights,
    video_call,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REGISTERS = 16  # what stands in for the padding of LTX-2's prompts


def ltx2_vae() -> Any:
    """An ``AutoencoderKLLTX2Video`` of eight channels that shrinks by eight in time and 32 in space."""
    from diffusers import AutoencoderKLLTX2Video

    vae = AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    randomise_weights(vae, seed=81)
    return vae


def ltx2_audio_parts() -> tuple[Any, Any]:
    """An ``AutoencoderKLLTX2Audio`` with eight numbers to a token, and an ``LTX2Vocoder``."""
    from diffusers import AutoencoderKLLTX2Audio
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    vae = AutoencoderKLLTX2Audio(
        base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=16
    ).eval()
    randomise_weights(vae, seed=82)
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=16,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
    ).eval()
    return vae, vocoder


def make_ltx2(*, heads: int = 4, as_2_3: bool = False, as_2_5: bool = False, image: bool = False) -> DiffusionPipeline:
    """An ``LTX2Pipeline``, as LTX-2.0.

    Args:
        heads: Attention heads, of 16 channels for the video and 8 for the sound.
        as_2_3: Make the architecture of LTX-2.3: gated attention that can be left out, modulated prompts, and
            connectors that give video and sound prompts of their own widths.
        as_2_5: And that of LTX-2.5: prompts that no time step modulates, and feed-forward layers without biases.
        image: Make an ``LTX2ImageToVideoPipeline``, where each token has a time step of its own.
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LTX2ImageToVideoPipeline,
        LTX2Pipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    tokenizer, text_encoder = make_gemma3()
    layers = text_encoder.config.text_config.num_hidden_layers
    of_text: dict[str, Any] = {}
    of_model: dict[str, Any] = {}
    as_2_3 = as_2_3 or as_2_5
    if as_2_3:
        of_text = {"per_modality_projections": True, "proj_bias": True}
        of_text |= {"video_hidden_dim": 16 * heads, "audio_hidden_dim": 8 * heads}
        of_text |= {"video_gated_attn": True, "audio_gated_attn": True}
        of_model = {"use_prompt_embeddings": False, "perturbed_attn": True}
        of_model |= {f"{part}{name}": True for part in ("", "audio_") for name in ("gated_attn", "cross_attn_mod")}
    if as_2_5:
        of_model |= {"use_prompt_adaln_single": False, "ff_bias": False, "audio_ff_bias": False}
    widths = (
        {"video": 16 * heads // 4, "audio": 8 * heads // 4}
        if as_2_3
        else dict.fromkeys(("video", "audio"), TEXT_DIM // 4)
    )
    torch.manual_seed(83)
    connectors = LTX2TextConnectors(
        caption_channels=TEXT_DIM,
        text_proj_in_factor=layers + 1,
        rope_type="split",
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=widths["video"],
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=REGISTERS,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=widths["audio"],
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=REGISTERS,
        **of_text,
    ).eval()
    randomise_weights(connectors, seed=83)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=heads,
        attention_head_dim=16,
        cross_attention_dim=16 * heads,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=heads,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=8 * heads,
        num_layers=2,
        caption_channels=TEXT_DIM,
        rope_type="split",
        **of_model,
    ).eval()
    randomise_weights(transformer, seed=84)
    audio_vae, vocoder = ltx2_audio_parts()
    pipe = (LTX2ImageToVideoPipeline if image else LTX2Pipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
        ),
        vae=ltx2_vae(),
        audio_vae=audio_vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ltx2_inputs(
    *,
    height: int = 256,
    width: int = 192,
    frames: int = 17,
    text_tokens: int = 2 * REGISTERS,
    guidance: float = 3.0,
    all_guidances: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of an ``LTX2Pipeline`` call: 32 pixels and eight frames (after the first) to a token.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video, one more than a multiple of eight.
        text_tokens: Length that the prompts are padded to, a multiple of ``REGISTERS``.
        guidance: Scale of the classifier-free guidance, above one to use it.
        all_guidances: Use, beside the classifier-free guidance, the two others that the pipeline has on by itself
            (a pass with a block's attention left out, for ``as_2_3`` alone, and a pass with sound and video apart).
        **options: Others of ``video_call``.
    """
    plain = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
    guidances = {"spatio_temporal_guidance_blocks": [1]} if all_guidances else plain
    sizes = {"height": height, "width": width, "frames": frames, "text_tokens": text_tokens}
    return guidances | video_call(guidance=guidance, **sizes, **options)


def make_ltx2_image(**options: Any) -> DiffusionPipeline:
    """As :func:`make_ltx2`, for a video that begins with a picture."""
    return make_ltx2(image=True, **options)


def ltx2_guided_inputs(**options: Any) -> dict[str, Any]:
    """As :func:`ltx2_inputs`, with all guidances."""
    return ltx2_inputs(all_guidances=True, **options)


def ltx2_image_inputs(**options: Any) -> dict[str, Any]:
    """As :func:`ltx2_guided_inputs`, with a picture."""
    found = ltx2_guided_inputs(**options)
    return {"image": two_colours(found["height"], found["width"]), **found}


make_ltx2_guided = make_ltx2
