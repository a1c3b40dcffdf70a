"""A small Flux whose text is given as embeddings and can have any length; whole pipelines are in ``families``."""

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
        norm_num_groups=4,
        **{"latent_channels": 4, **options},
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
