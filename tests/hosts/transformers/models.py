"""Small random language models of the true classes, whose attention is peaky: a wrong mask or place shows."""

from __future__ import annotations

from typing import Any

import torch
import transformers

__all__ = ["KINDS", "language_model", "prompts"]

_VOCABULARY = 97

_COMMON = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama-dynamic": (
        "Llama",
        {
            "max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "factor": 2.0,
            },
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mixtral": ("Mixtral", {"sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1}),
    "qwen2-moe": ("Qwen2Moe", {**_MOE, "shared_expert_intermediate_size": 32}),
    "qwen3": ("Qwen3", {}),
    "qwen3-moe": ("Qwen3Moe", _MOE),
    "gemma": ("Gemma", {"num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {"sliding_window": 7, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 9,
            "num_hidden_layers": 3,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt-oss": (
        "GptOss",
        {
            "sliding_window": 5,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
        },
    ),
    "phi3": (
        "Phi3",
        {
            "num_key_value_heads": 6,
            "original_max_position_embeddings": 40,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.5, 2.0, 3.0, 4.0],
                "original_max_position_embeddings": 40,
            },
        },
    ),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0]}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", {"attention_multiplier": 0.3}),
}
"""By name: the class without its ending, and what differs in its configuration."""


def language_model(kind: str, **changes: Any) -> Any:
    """A model of a kind, the same on every rank, in fp32 and with transformers' own attention."""
    name, settings = KINDS[kind]
    config_name = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    settings = {**_COMMON, **settings, **changes}
    if name == "Phi3":
        settings.pop("head_dim")
    config = getattr(transformers, config_name)(**settings)
    config._attn_implementation = "eager"
    state = torch.get_rng_state()
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.8 / parameter.shape[-1] ** 0.5)
        for layer in model.model.layers:
            _sharpen(layer.self_attn)
    torch.set_rng_state(state)
    model.generation_config.eos_token_id = None
    return model


def _sharpen(attention: Any) -> None:
    """Make attention look at few tokens; random weights look at all alike, where a wrong mask hardly shows."""
    if hasattr(attention, "q_norm"):
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.fill_(2.0)
    elif hasattr(attention, "qkv_proj"):
        attention.qkv_proj.weight[: attention.qkv_proj.weight.shape[0] * 2 // 3] *= 3
    else:
        attention.q_proj.weight *= 3
        attention.k_proj.weight *= 3
    if hasattr(attention, "sinks"):
        attention.sinks.copy_(torch.linspace(3, 5, len(attention.sinks)))


def prompts(
    batch: int, length: int, padding: list[int] | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids ``[B, S]`` and the mask of a batch whose items are padded on the left by that many tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, _VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    for item, pads in enumerate(padding or []):
        ids[item, :pads], mask[item, :pads] = 0, 0
    return ids, mask
