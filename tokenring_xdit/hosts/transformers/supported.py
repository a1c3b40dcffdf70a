"""The language models that were compared with one process: a record a kind, and what is refused of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenring_xdit.errors import UnsupportedError

__all__ = ["FAMILIES", "Family", "family_of", "windows_of"]


@dataclass(frozen=True)
class Family:
    """What attention of a kind of model does beyond scores, a causal mask and softmax.

    Attributes:
        model_type: What transformers calls it in its configuration.
        title: What people call it.
        windows: Whether layers may see a window of the last tokens only.
        sinks: Whether its softmax has a further term for each head.
        softcap: Whether its scores are capped.
    """

    model_type: str
    title: str
    windows: bool = False
    sinks: bool = False
    softcap: bool = False


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama 2 and 3, SmolLM 1 and 2"),
        Family("mistral", "Mistral", windows=True),
        Family("mixtral", "Mixtral", windows=True),
        Family("qwen2", "Qwen 2 and 2.5", windows=True),
        Family("qwen2_moe", "Qwen 2 MoE", windows=True),
        Family("qwen3", "Qwen 3", windows=True),
        Family("qwen3_moe", "Qwen 3 MoE", windows=True),
        Family("gemma", "Gemma"),
        Family("gemma2", "Gemma 2", windows=True, softcap=True),
        Family("gemma3_text", "Gemma 3, its text model", windows=True, softcap=True),
        Family("gpt_oss", "gpt-oss", windows=True, sinks=True),
        Family("phi3", "Phi 3 and 4", windows=True),
        Family("smollm3", "SmolLM 3", windows=True),
        Family("olmo2", "OLMo 2"),
        Family("granite", "Granite"),
    )
}
"""By ``model_type``."""

_LAYERS = {"full_attention": False, "sliding_attention": True}
"""Kinds of layers that are known, and whether they have a window."""


def family_of(model: Any) -> Family:
    """The record of a model.

    Raises:
        UnsupportedError: It is of a kind that was not compared, or has layers that are not known.
    """
    config = model.config
    kind = getattr(config, "model_type", type(model).__name__)
    name = f"tokenring_xdit.parallelize was given a {type(model).__name__}"
    instead = f"use one of {', '.join(sorted(FAMILIES))}, or call the model without parallelize"
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedError(f"{name}, which encodes before it decodes, and only decoders are sharded: {instead}")
    others = sorted({*(getattr(config, "layer_types", None) or ())} - {*_LAYERS})
    if others:
        raise UnsupportedError(f"{name} with layers of {', '.join(others)}, which is not sharded: {instead}")
    if kind not in FAMILIES:
        raise UnsupportedError(f"{name}, and models of type {kind} were not compared with one process: {instead}")
    if not hasattr(model, "lm_head") or not hasattr(model, "generate"):
        raise UnsupportedError(f"{name}, which predicts no tokens: load it with AutoModelForCausalLM")
    return FAMILIES[kind]


def windows_of(config: Any) -> list[int | None]:
    """How many keys a query sees in each layer, its own included; ``None`` for all up to its own."""
    family = FAMILIES.get(config.model_type)
    window = getattr(config, "sliding_window", None) if family is None or family.windows else None  # others heed none
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    return [window if kind is None or _LAYERS[kind] else None for kind in kinds]
