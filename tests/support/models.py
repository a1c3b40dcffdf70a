"""Small models of the true architecture, random weights, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

FLUX_TEXT_DIM = 32
FLUX_POOLED_DIM = 24


def small_vae(**options: object) -> object:
    """An ``AutoencoderKL`` of four channels that shrinks pictures by two on each side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **options,
    ).eval()


def flux_pipeline(*, heads: int = 4, guidance: bool = False, transformer_class: type | None = None) -> object:
    """A diffusers ``FluxPipeline`` without text encoders (tests pass embeddings)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(7)
    transformer = (transformer_class or FluxTransformer2DModel)(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=FLUX_TEXT_DIM,
        pooled_projection_dim=FLUX_POOLED_DIM,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux_inputs(*, text_tokens: int, height: int, width: int, batch: int = 1, steps: int = 3) -> dict[str, object]:
    """Arguments of a ``FluxPipeline`` call that returns latents; sizes in pixels, four to a token."""
    generator = torch.Generator().manual_seed(11)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "prompt_embeds": randn(batch, text_tokens, FLUX_TEXT_DIM),
        "pooled_prompt_embeds": randn(batch, FLUX_POOLED_DIM),
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "max_sequence_length": text_tokens,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }


SD3_TEXT_DIM = 32
SD3_POOLED_DIM = 24


def sd3_pipeline(*, dual: bool = False) -> object:
    """A diffusers ``StableDiffusion3Pipeline`` without text encoders; ``dual`` as in SD3.5 medium."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(8)
    transformer = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=SD3_TEXT_DIM,
        caption_projection_dim=32,
        pooled_projection_dim=SD3_POOLED_DIM,
        pos_embed_max_size=64,
        qk_norm="rms_norm",
        dual_attention_layers=(0, 1) if dual else (),
    ).eval()
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=small_vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.5, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3_inputs(*, text_tokens: int, height: int, width: int, batch: int = 1, steps: int = 3) -> dict[str, object]:
    """Arguments of a ``StableDiffusion3Pipeline`` call with guidance that returns latents."""
    generator = torch.Generator().manual_seed(12)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "prompt_embeds": randn(batch, text_tokens, SD3_TEXT_DIM),
        "negative_prompt_embeds": randn(batch, text_tokens, SD3_TEXT_DIM),
        "pooled_prompt_embeds": randn(batch, SD3_POOLED_DIM),
        "negative_pooled_prompt_embeds": randn(batch, SD3_POOLED_DIM),
        "guidance_scale": 5.0,
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }


PIXART_TEXT_DIM = 32


def pixart_pipeline(*, sigma: bool = False) -> object:
    """A diffusers ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline`` without a text encoder."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    torch.manual_seed(9)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=32,
        sample_size=32,
        patch_size=2,
        caption_channels=PIXART_TEXT_DIM,
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    ).eval()
    pipe = (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=None,
        text_encoder=None,
        vae=small_vae(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixart_inputs(*, text_tokens: int, height: int, width: int, batch: int = 1, steps: int = 3) -> dict[str, object]:
    """Arguments of a PixArt call with guidance that returns latents; the prompt's last third is padding."""
    generator = torch.Generator().manual_seed(13)
    mask = torch.ones(batch, text_tokens, dtype=torch.long)
    mask[:, text_tokens * 2 // 3 :] = 0
    return {
        "negative_prompt": None,
        "prompt_embeds": torch.randn(batch, text_tokens, PIXART_TEXT_DIM, generator=generator),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": torch.randn(batch, text_tokens, PIXART_TEXT_DIM, generator=generator),
        "negative_prompt_attention_mask": torch.ones_like(mask),
        "guidance_scale": 4.5,
        "use_resolution_binning": False,
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }
