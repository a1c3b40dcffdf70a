"""How much memory a language model needs, counted by hand; what it really needs is in tests/hosts/transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES, LanguageShape, language_shape
from tokenring_xdit.planning.capacity import ask_for, longest

GIB = 1 << 30


WEIGHTS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-12b": 11_766_034_176,
    "gemma-3-27b": 27_009_346_304,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "smollm2-135m": 134_515_008,
}
"""Of the models as they are loaded."""


def test_shapes_have_as_many_weights_as_their_makers_say() -> None:
    assert {name: shape.weights for name, shape in LANGUAGE_SHAPES.items()} == WEIGHTS


@pytest.mark.parametrize("name", LANGUAGE_SHAPES)
def test_weights_that_are_said_are_those_of_the_widths_and_some_norms(name: str) -> None:
    shape = language_shape(name)
    counted, layer = replace(shape, parameters=None).weights, 2 * (shape.hidden + shape.head_dim)
    if name.startswith("gpt-oss"):  # biases of all that is projected, and sinks
        experts = shape.experts * (2 * shape.intermediate + shape.hidden + 1)
        layer = (shape.heads + 2 * shape.kv_heads) * shape.head_dim + shape.hidden + shape.heads + experts
    assert counted <= WEIGHTS[name] <= counted + shape.layers * layer


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


@pytest.mark.parametrize("chunk", [None, 4096])
def test_the_unmodified_model_needs_more_and_never_less(chunk: int | None) -> None:
    """It repeats keys, and has a mask of all queries and keys where there is a window or a chunk before."""
    for name in ("llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b"):
        shape = language_shape(name)
        plain, ours = (
            ask_for(shape, 131_072, ranks=1, element_bytes=2, chunk=chunk, unmodified=unmodified).total
            for unmodified in (True, False)
        )
        assert plain >= 0.99 * ours
        if chunk is not None or any(shape.windows):
            assert plain > ours
    masks = ask_for(language_shape("gemma-3-12b"), 131_072, ranks=1, element_bytes=2, unmodified=True)
    assert masks.activations > 131_072**2


def test_where_not_even_the_weights_fit_nothing_does() -> None:
    assert longest(language_shape("llama-3.1-405b"), 80 * GIB, ranks=8, element_bytes=2) is None


@pytest.mark.parametrize("chunk", [None, 4096])
@pytest.mark.parametrize("tokens", [1, 7, 100])
def test_a_prompt_may_be_shorter_than_the_ranks_are_many(tokens: int, chunk: int | None) -> None:
    shape = language_shape("llama-3.1-8b")
    assert ask_for(shape, tokens, ranks=128, element_bytes=2, chunk=chunk).total > 2 * shape.weights


def test_three_rounds_of_keys_come_and_go_together() -> None:
    """Behind many cached tokens of a model whose queries are longer than its keys are many."""
    shape = language_shape("llama-3.1-8b")
    two, eight = (
        ask_for(shape, ranks * 4096, ranks=ranks, element_bytes=2, chunk=ranks * 2048).attention for ranks in (2, 8)
    )
    assert eight - two >= 2 * 4096 * shape.key_bytes(2)


def test_what_is_exchanged_of_a_chunk_does_not_grow_once_queries_travel() -> None:
    """Llama has 4 query heads a key head: from the fifth chunk on its keys are more than its queries and outputs."""
    shape = language_shape("llama-3.1-8b")
    need = [
        ask_for(shape, chunks * 4096, ranks=4, element_bytes=2, chunk=4096).attention for chunks in (2, 4, 9, 50, 90)
    ]
    assert need[0] < need[1]
    assert need[2] == need[3] < need[4]  # then a layer's keys, which move to where there is more room, are more
