"""A small Lumina-Image 2.0 pipeline. A token is 16 by 16 pixels, as the pipeline has it."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model

from tests.support.families import text, tokenizers

LATENT_CHANNELS = 4
TEXT_DIM = 32

# What the pipeline puts before a prompt: one token to a word, except the first, which the tokenizer spells.
TEMPLATE = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start>"
)


def make_lumina2(*, heads: int = 4) -> DiffusionPipeline:
    """A ``Lumina2Pipeline``.

    Args:
        heads: Attention heads of 16 channels, an even number; each two of them share a head of keys and values.
    """
    torch.manual_seed(13)
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        hidden_size=16 * heads,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=heads,
        num_kv_heads=heads // 2,
        multiple_of=32,
        axes_dim_rope=(4, 6, 6),
        cap_feat_dim=TEXT_DIM,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.5,
        shift_factor=0.1,
    )
    tokenizer, text_encoder = _gemma2(hidden=TEXT_DIM)
    pipe = Lumina2Pipeline(
        transformer=text.randomise_weights(transformer, seed=131),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=text.randomise_weights(vae, seed=132),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def lumina2_inputs(
    *, height: int = 128, width: int = 96, text_tokens: int = 64, guidance_scale: float = 4.0, **options: Any
) -> dict[str, Any]:
    """Arguments of a call of ``make_lumina2``'s pipeline, 16 pixels to a token.

    The refining layer over the text masks the padding; the layers after it see no padding but what a prompt of the
    call is shorter than the longest one, which they mask. Guidance takes a call of the model of its own, with negative
    prompts that have no template and another length.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        text_tokens: Tokens that each prompt is padded or cut to, with what stands before it: 28 for a prompt, one
            for a negative prompt. The model has positions for fewer than 300.
        guidance_scale: Scale of classifier-free guidance, which is in use above one.
        **options: Others of ``text.picture_call``.
    """
    return text.picture_call(
        height=height,
        width=width,
        text_tokens=text_tokens,
        guidance_scale=guidance_scale,
        negative=guidance_scale > 1,
        **options,
    )


def _gemma2(*, hidden: int, seed: int = 27) -> tuple[Any, Gemma2Model]:
    """A Gemma 2 model of three layers, of which the pipeline reads what the last has not seen."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = string.ascii_letters + string.digits + string.punctuation
    vocab = dict.fromkeys([*special, "\u2581", *letters])
    merges: dict[tuple[str, str], None] = {}
    for word in [*text.WORDS, *TEMPLATE.split()]:
        whole = "\u2581"
        for letter in word:
            merges[whole, letter] = None
            whole += letter
            vocab[whole] = None
    tokenizer = tokenizers.gemma({token: number for number, token in enumerate(vocab)}, list(merges))
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        query_pre_attn_scalar=hidden // 4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, text.randomise_weights(Gemma2Model(config), seed=seed)
