"""How much memory a language model needs, counted by hand; what it really needs is in tests/hosts/transformers."""

from __future__ import annotations

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES, LanguageShape, language_shape
from tokenring_xdit.planning.capacity import ask_for, longest

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.6),
        ("llama-3.1-405b", 405.9),
        ("mistral-7b", 7.24),
        ("qwen3-8b", 8.19),
        ("qwen3-32b", 32.8),
        ("qwen3-30b-a3b", 30.5),
        ("gemma-2-9b", 9.24),
        ("gemma-2-27b", 27.2),
        ("smollm2-135m", 0.1345),
    ],
)
def test_shapes_have_as_many_weights_as_their_makers_say(name: str, billions: float) -> None:
    assert language_shape(name).weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no language model 'llama-3.1-8'.*llama-3.1-8b"):
        language_shape("llama-3.1-8")


@pytest.mark.parametrize("chunk", [None, 4096])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_longest_prompt_fits_and_a_longer_one_does_not(count: int, chunk: int | None) -> None:
    shape, memory = language_shape("llama-3.1-8b"), 40 * GIB
    found = longest(shape, memory, ranks=count, element_bytes=2, chunk=chunk)
    assert found is not None
    assert found.total <= memory
    more = ask_for(shape, found.tokens + 64, ranks=count, element_bytes=2, chunk=chunk)
    assert more.total > memory
    assert found == ask_for(shape, found.tokens, ranks=count, element_bytes=2, chunk=chunk)


def test_ranks_hold_so_many_times_as_much() -> None:
    shape = language_shape("llama-3.1-8b")
    one, eight = (longest(shape, 80 * GIB, ranks=ranks, element_bytes=2, chunk=4096) for ranks in (1, 8))
    assert one is not None
    assert eight is not None
    assert eight.tokens >= 0.9 * 8 * one.tokens
    assert eight.keys == pytest.approx(one.keys, rel=0.05)


def test_keys_are_those_of_this_ranks_tokens() -> None:
    need = ask_for(language_shape("llama-3.1-8b"), 65536, ranks=8, element_bytes=2)
    assert need.keys == (65536 // 8 + 32) * 32 * 2 * 8 * 128 * 2
    assert need.weights == 2 * language_shape("llama-3.1-8b").weights


def test_windows_end_what_is_held_once_a_prompt_comes_in_chunks() -> None:
    full = LANGUAGE_SHAPES["llama-3.1-8b"]
    half = LanguageShape(
        (1024, None) * 16,
        *(getattr(full, n) for n in ("hidden", "heads", "kv_heads", "head_dim")),
        full.intermediate,
        full.vocabulary,
    )
    whole, chunks = (ask_for(half, 1 << 20, ranks=4, element_bytes=2, chunk=chunk).keys for chunk in (None, 4096))
    assert whole == ask_for(full, 1 << 20, ranks=4, element_bytes=2).keys
    assert chunks < 0.6 * whole


def test_where_not_even_the_weights_fit_nothing_does() -> None:
    assert longest(language_shape("llama-3.1-405b"), 80 * GIB, ranks=8, element_bytes=2) is None
