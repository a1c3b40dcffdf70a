"""How much memory a language model needs on each of several ranks, and how many tokens fit into one. Pure arithmetic.

It follows what :mod:`tokenring_xdit.hosts.transformers` holds while it computes a prompt, tensor by tensor; how far it
is off was measured (docs/llm.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import LanguageShape
from tokenring_xdit.planning.straight import ROUNDS_AT_ONCE
from tokenring_xdit.schedule import ALGORITHMS, Mask, build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.landing import footprint
from tokenring_xdit.schedule.problem import LSE_BYTES, Problem

__all__ = ["Need", "ask_for", "balanced_schedule", "longest"]

_FP32 = 4

_INDICES = 64
"""Bytes of a token of the whole sequence on each rank: its number, mask and place, each several times."""

_BLOCK, _REGRET = 32, 128
"""Tokens of a block of an answer, and those of a window that are kept longer than needed, at most."""

_SCORES, _SCORED, _COPIES = 1 << 22, 4096, 4
"""Scores that layers with windows hold at once, keys that a query has of them, and copies of them, at most."""

_KEYS_AT_ONCE = 512

_STEP = 64
"""Tokens that answers of :func:`longest` are exact to."""

_MOST = 1 << 34


@dataclass(frozen=True)
class Need:
    """Bytes of the rank that needs most.

    Attributes:
        tokens: Tokens of the prompt, on all ranks together.
        weights: The whole model's.
        keys: Keys and values of this rank's tokens, in all layers.
        activations: What a layer computes with.
        exchange: What comes, goes and is merged in attention, and scores where those are held.
        indices: Numbers and places of all tokens.
    """

    tokens: int
    weights: int
    keys: int
    activations: int
    exchange: int
    indices: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.keys + self.activations + self.exchange + self.indices


def balanced_schedule() -> str:
    """The schedule that was made for causal masks: shards are contiguous, and all ranks have equal work."""
    return next(name for name, algorithm in ALGORITHMS.items() if algorithm.masks == {Mask.CAUSAL})


def ask_for(
    shape: LanguageShape, tokens: int, *, ranks: int, element_bytes: int, batch: int = 1, chunk: int | None = None
) -> Need:
    """What a prompt needs, where a whole one is computed as ``balanced`` does.

    Args:
        shape: The model.
        tokens: Tokens of the prompt.
        ranks: Ranks that share it.
        element_bytes: Bytes of an element of weights, keys and activations.
        batch: Items.
        chunk: Tokens that are computed at a time (``prefill_chunk_size``); ``None`` for all.
    """
    chunk = tokens if chunk is None else min(chunk, tokens)
    last = tokens - chunk
    with_keys = (2 * shape.heads - shape.kv_heads) // (2 * shape.kv_heads) * chunk  # the last chunk whose keys travel
    needs = [_ask_for(shape, tokens, past, chunk, ranks, element_bytes, batch) for past in {last, min(last, with_keys)}]
    return max(needs, key=lambda need: need.total)


def _ask_for(
    shape: LanguageShape, tokens: int, past: int, chunk: int, ranks: int, element_bytes: int, batch: int
) -> Need:
    """What a prompt needs while a chunk of it is computed that has ``past`` tokens before it."""
    new, whole = -(-chunk // ranks), chunk == tokens
    held = -(-(past + chunk) // ranks) + (0 if ranks == 1 and whole else _BLOCK)
    key = shape.key_bytes(element_bytes) * batch
    kept = sum(held if window is None or whole else min(held, window + _REGRET + new) for window in shape.windows)
    scores = min(_SCORES, batch * shape.heads * new * min(_SCORED, held)) if any(shape.windows) else 0
    grows = 0 if whole else key // 2 * held  # a layer's keys, then its values, move to where there is more room
    return Need(
        tokens,
        weights=shape.weights * element_bytes,
        keys=kept * key + grows,
        activations=batch * new * _activations(shape, element_bytes) + batch * shape.vocabulary * 2 * _FP32,
        exchange=_exchange(shape, past, chunk, ranks, element_bytes, batch) + scores * _COPIES * _FP32,
        indices=batch * tokens * _INDICES,
    )


def longest(
    shape: LanguageShape,
    memory: int,
    *,
    ranks: int,
    element_bytes: int,
    batch: int = 1,
    chunk: int | None = None,
) -> Need | None:
    """The longest prompt that fits.

    Args:
        shape: The model.
        memory: Bytes of a rank.
        ranks: Ranks that share the prompt.
        element_bytes: Bytes of an element.
        batch: Items.
        chunk: As for :func:`ask_for`.

    Returns:
        What it needs; ``None`` where nothing fits.
    """

    def need(steps: int) -> Need:
        return ask_for(shape, steps * _STEP, ranks=ranks, element_bytes=element_bytes, batch=batch, chunk=chunk)

    if need(1).total > memory:
        return None
    low, high = 1, 2
    while need(high).total <= memory:
        low, high = high, high * 2
        if high * _STEP > _MOST:
            raise ConfigurationError(f"more than {_MOST} tokens fit into {memory} bytes: name less memory")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if need(middle).total <= memory else (low, middle)
    return need(low)


def _activations(shape: LanguageShape, element_bytes: int) -> int:
    """Bytes a token in the phase of a layer that needs most."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    wide = 3 * shape.experts_used * shape.intermediate
    residual = 2 * hidden
    rotary = residual + 5 * queries + keys
    attention = residual + 2 * queries + keys
    feed_forward = residual + wide
    normed = hidden * element_bytes + 3 * hidden * _FP32
    tables = 4 * shape.head_dim * _FP32
    return max(max(rotary, attention, feed_forward) * element_bytes, normed) + tables


def _exchange(shape: LanguageShape, past: int, chunk: int, ranks: int, element_bytes: int, batch: int) -> int:
    """Bytes that attention of some tokens behind ``past`` others holds beside its inputs, and its output."""
    new = -(-chunk // ranks)
    rows = batch * shape.heads * new
    queries, partial = rows * shape.head_dim * element_bytes, rows * (shape.head_dim * _FP32 + LSE_BYTES)
    own = 2 * partial + 2 * queries  # over keys before and its own ones, which are folded
    if ranks == 1:
        return own
    peak, stays = _scheduled(
        ranks, chunk, shape.heads, shape.head_dim, kv_heads=shape.kv_heads, batch=batch, element_bytes=element_bytes
    )
    if not past:
        return peak + queries + 2 * batch * new * shape.key_bytes(element_bytes)
    rounds = min(ROUNDS_AT_ONCE, ranks - 1)
    if not _queries_travel(shape, past, chunk):
        keys = batch * (-(-past // ranks) + new) * shape.key_bytes(element_bytes)
        copies = 2 if batch * shape.kv_heads > 1 else 1  # those of one head go as they lie
        return stays + copies * rounds * keys + own + _kernel(shape, new)
    sent = queries + rows * LSE_BYTES
    answering = max(
        min(rounds, ranks - distance) * queries + 2 * min(ROUNDS_AT_ONCE + 1, distance) * sent
        for distance in range(1, ranks)
    )  # the next queries have come, and outputs come and go; merged ones of three rounds before are gone
    merged = partial + (partial if element_bytes < _FP32 else 0)
    return stays + queries + max(rounds * queries + own, answering + merged) + _kernel(shape, new)


@lru_cache(maxsize=64)
def _scheduled(ranks: int, tokens: int, *sizes: int, kv_heads: int, batch: int, element_bytes: int) -> tuple[int, int]:
    """Bytes of the schedule of a whole prompt: at most, and for messages, which processors keep between calls."""
    schedule = build(balanced_schedule(), ranks, Mask.CAUSAL, kv_heads).schedule
    problem = Problem.even(ranks, tokens, *sizes, kv_heads=kv_heads, batch=batch, element_bytes=element_bytes)
    programs = lower(schedule, problem, in_order=False)
    stays = (footprint(program, element_bytes, element_bytes).size for program in programs)
    return max(program.peak for program in programs), max(stays)


def _queries_travel(shape: LanguageShape, past: int, chunk: int) -> bool:
    """Whether queries and outputs are less than keys, of which half of the new ones are needed elsewhere."""
    return 2 * shape.heads * chunk < shape.kv_heads * (2 * past + chunk)


def _kernel(shape: LanguageShape, new: int) -> int:
    """Bytes of scores that torch's kernel for processors holds, a thread (``FlashAttentionKernel.cpp``)."""
    queries = shape.heads // shape.kv_heads * new
    rows = 256 if queries >= 768 else 64 if queries >= 192 else 32
    return rows * (_KEYS_AT_ONCE + 2 + shape.head_dim) * _FP32
