"""A small Ideogram 4 pipeline. A token is four by four pixels."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from tests.support.families import text
from tests.support.families.flux2 import flux2_vae
from tests.support.families.peaky import peaky

TEXT_DIM = 16
TAPPED_LAYERS = 13  # of the encoder's 36, side by side


def make_ideogram4(*, heads: int = 4) -> DiffusionPipeline:
    """An ``Ideogram4Pipeline`` with two transformers, of which the second sees no prompt.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, Ideogram4Pipeline, Ideogram4Transformer2DModel

    vae = flux2_vae()
    tokenizer, text_encoder = _qwen3_vl()

    def transformer(seed: int) -> Any:
        model = Ideogram4Transformer2DModel(
            in_channels=4 * vae.config.latent_channels,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=heads,
            intermediate_size=32 * heads,
            adaln_dim=32,
            llm_features_dim=TAPPED_LAYERS * TEXT_DIM,
            mrope_section=(4, 2, 2),
        )
        return peaky(text.randomise_weights(model, seed=seed))

    pipe = Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer(141),
        unconditional_transformer=transformer(142),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _qwen3_vl() -> tuple[Any, Any]:
    """A tokenizer and a ``Qwen3VLModel`` of as many layers as Ideogram's, whose outputs are tapped by number."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    tokenizer, _ = text.qwen3()
    tokenizer.chat_template = text.QWEN_TEMPLATE.replace(
        "message.content", "(message.content | map(attribute='text') | join(''))"
    )
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_DIM,
            "intermediate_size": 2 * TEXT_DIM,
            "num_hidden_layers": 36,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": TEXT_DIM,
            "deepstack_visual_indexes": [0],
        },
    )
    return tokenizer, text.randomise_weights(Qwen3VLModel(config), seed=143)


def ideogram4_inputs(*, text_tokens: int = 64, guidance_scale: float = 4.0, **options: Any) -> dict[str, Any]:
    """Arguments of a call of ``make_ideogram4``'s pipeline, four pixels to a token.

    Args:
        text_tokens: Tokens that a prompt is padded to, in front of it.
        guidance_scale: Weight of the transformer that sees the prompt.
        **options: Others of ``text.picture_call``.
    """
    arguments = text.picture_call(text_tokens=text_tokens, guidance_scale=guidance_scale, negative=False, **options)
    return {**arguments, "guidance_schedule": None}
