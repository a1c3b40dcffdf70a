"""How large a language model is, by its configuration: its weights are never read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.transformers.supported import family_of, windows_of
from tokenring_xdit.hub import problem_in
from tokenring_xdit.language_shapes import LanguageShape

__all__ = ["configured_shape", "shape_of"]


def configured_shape(name: str, **options: Any) -> LanguageShape:
    """The shape of a model that could be loaded.

    Args:
        name: Folder or hub name.
        **options: Further arguments of ``from_pretrained``.

    Raises:
        ConfigurationError: There is no configuration.
        UnsupportedError: It is of a kind that was not compared with the single process.
    """
    try:
        config = AutoConfig.from_pretrained(name, **options)
        config = config.get_text_config(decoder=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        reason = problem_in(error) or " ".join(str(error).split())[:300]
        raise ConfigurationError(f"the configuration of '{name}' could not be read: {reason}") from error
    family_of(model)
    return shape_of(model)


def shape_of(model: Any) -> LanguageShape:
    """The shape of a causal language model, whose weights may lie nowhere."""
    config = model.config
    experts = next((n for n in (getattr(config, key, None) for key in ("num_experts", "num_local_experts")) if n), 1)
    used = getattr(config, "num_experts_per_tok", 1) if experts > 1 else 1
    shared = (getattr(config, "shared_expert_intermediate_size", None) or 0) if experts > 1 else 0
    width = (getattr(config, "moe_intermediate_size", None) if experts > 1 else None) or config.intermediate_size
    heads = config.num_attention_heads
    return LanguageShape(
        windows=tuple(windows_of(config)),
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=width,
        vocabulary=config.vocab_size,
        experts=experts,
        experts_used=used + -(-shared // width),
        biased_experts=any(name.endswith("experts.down_proj_bias") for name, _ in model.named_parameters()),
        eager=not model._supports_sdpa,
        tied=bool(config.tie_word_embeddings),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
