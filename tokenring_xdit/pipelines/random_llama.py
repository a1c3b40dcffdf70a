"""A Llama of any width and depth with random weights: what a prompt or an answer takes, without a download."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import LanguageShape
from tokenring_xdit.spec import Grammar, Whole, written

__all__ = ["RANDOM_LLAMA", "RandomLlama", "is_random_llama"]

RANDOM_LLAMA = "random-llama"

_MOST = 1 << 20


@dataclass(frozen=True)
class RandomLlama:
    """A causal language model of transformers' Llama class; attention is peaky, so that a wrong place shows.

    Attributes:
        layers: Layers. SmolLM2-135M has 30.
        hidden: Width of the hidden states. SmolLM2-135M has 576.
        heads: Query heads. SmolLM2-135M has 9.
        kv_heads: Heads of keys and values. SmolLM2-135M has 3.
        head_dim: Width of a head. SmolLM2-135M has 64.
        intermediate: Width of the feed-forward layers. SmolLM2-135M has 1536.
        vocabulary: Tokens that it knows.
    """

    layers: int = 1
    hidden: int = 576
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    intermediate: int = 1536
    vocabulary: int = 1000

    @classmethod
    def parse(cls, text: str) -> RandomLlama:
        """Read ``random-llama`` or ``random-llama:heads=8,kv_heads=2``.

        Raises:
            ConfigurationError: It is neither, or no such model can be.
        """
        options = {field.name: Whole(_MOST) for field in fields(cls)}
        _, said = Grammar("language model", {RANDOM_LLAMA: options}, ConfigurationError).read(text)
        model = cls(**{name: int(value) for name, value in said.items()})
        if model.heads % model.kv_heads or model.head_dim % 2:
            raise ConfigurationError(
                f"model {model}: kv_heads has to divide heads, and head_dim has to be even for rotary positions"
            )
        return model

    def __str__(self) -> str:
        return written(RANDOM_LLAMA, [(field.name, getattr(self, field.name)) for field in fields(self)])

    @property
    def shape(self) -> LanguageShape:
        """How large it is."""
        return LanguageShape(
            (None,) * self.layers,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.intermediate,
            self.vocabulary,
        )

    def make(self, dtype: str, seed: int = 0) -> Any:
        """The model, the same wherever it is made.

        Args:
            dtype: Dtype of its weights.
            seed: Seed of its weights.
        """
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=_MOST,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).eval()
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=weight.shape[-1] ** -0.5)
            for layer in model.model.layers:
                layer.self_attn.q_proj.weight.mul_(3)
        model.generation_config.eos_token_id = None
        return model.to(torch_dtype(dtype))


def is_random_llama(name: str) -> bool:
    """Whether a name is that of a model with random weights."""
    return name.partition(":")[0] == RANDOM_LLAMA
