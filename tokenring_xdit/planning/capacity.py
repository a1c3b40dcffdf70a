"""How much memory a language model needs on each of several ranks, and how many tokens fit into one. Pure arithmetic.

It follows what :mod:`tokenring_xdit.hosts.transformers` holds while it computes a prompt, tensor by tensor, or what
transformers' own model does in one process; how far it is off was measured (docs/llm.md).
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

_BLOCK, _REGRET, _GUESSED = 32, 128, 512
"""Tokens of a block of an answer; those of a window that are kept longer than needed; and as many as a call brought, as
long as those are no more."""

_SCORES, _QUERIES, _SCORED, _COPIES = 1 << 22, 256, 4096, 3
"""Of layers that no fused kernel takes: scores that are held at once, and their queries and keys, at most; copies."""

_KEYS_AT_ONCE = 512

_NUMBERS = 16
"""Elements, at most, of places of a token at one of its experts: where it goes, and where it came from."""

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
        activations: What a layer computes with outside of attention, and what attention keeps for the next call.
        attention: What a layer holds while it attends: its inputs, what comes, goes and is merged, and scores.
        indices: Numbers and places of all tokens, and logits of the last one.
    """

    tokens: int
    weights: int
    keys: int
    activations: int
    attention: int
    indices: int

    @property
    def layer(self) -> int:
        """What a layer holds at most, which first attends and then computes the rest."""
        return max(self.activations, self.attention)

    @property
    def total(self) -> int:
        """All that is held at once."""
        return self.weights + self.keys + self.layer + self.indices


def balanced_schedule() -> str:
    """The schedule that was made for causal masks: shards are contiguous, and all ranks have equal work."""
    return next(name for name, algorithm in ALGORITHMS.items() if algorithm.masks == {Mask.CAUSAL})


def ask_for(
    shape: LanguageShape,
    tokens: int,
    *,
    ranks: int,
    element_bytes: int,
    batch: int = 1,
    chunk: int | None = None,
    unmodified: bool = False,
) -> Need:
    """What a prompt needs, where a whole one is computed as ``balanced`` does.

    Args:
        shape: The model.
        tokens: Tokens of the prompt.
        ranks: Ranks that share it.
        element_bytes: Bytes of an element of weights, keys and activations.
        batch: Items.
        chunk: Tokens that are computed at a time (``prefill_chunk_size``); ``None`` for all.
        unmodified: Whether it is transformers' own model in one process, without :func:`parallelize`, on one rank.
    """
    chunk = tokens if chunk is None else min(chunk, tokens)
    if unmodified:
        return _ask_one_process(shape, tokens, chunk, element_bytes, batch)
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
    more = new + _REGRET + (new if chunk <= _GUESSED else 0)
    kept = sum(held if window is None or whole else min(held, window + more) for window in shape.windows)
    grows = 0 if whole else key // 2 * held  # a layer's keys, then its values, move to where there is more room
    stays, exchanged = _exchange(shape, past, chunk, ranks, element_bytes, batch)
    inputs = batch * new * _inputs(shape, element_bytes)
    scores = _scores(shape, past, new, ranks, element_bytes, batch)
    return Need(
        tokens,
        weights=shape.weights * element_bytes,
        keys=kept * key,
        activations=batch * new * _activations(shape, element_bytes) + stays,
        attention=inputs + max(grows, exchanged, scores and scores + stays),
        indices=batch * (tokens * _INDICES + shape.vocabulary * 2 * _FP32),
    )


def _ask_one_process(shape: LanguageShape, tokens: int, chunk: int, element_bytes: int, batch: int) -> Need:
    """What the last chunk of a prompt needs in transformers' own model.

    Its cache is concatenated anew with each chunk. A chunk behind others, and a window, have a mask of all queries and
    keys, which torch's fused kernels take as numbers, and with which keys are repeated for the heads of a group. Where
    transformers has no fused kernel it holds the scores of all heads.
    """
    whole, key, new = chunk == tokens, shape.key_bytes(element_bytes) * batch, batch * chunk
    held = {window: tokens if window is None or whole else min(tokens, window - 1 + chunk) for window in shape.windows}
    repeated = 2 * batch * shape.heads * shape.head_dim * element_bytes if shape.groups > 1 else 0
    masks = scored = 0
    for window, seen in held.items():
        if shape.eager:
            masks += new * seen * element_bytes
            copies = max(3 * element_bytes, element_bytes + 2 * _FP32)
            scored = max(scored, repeated * seen + new * shape.heads * seen * copies)
        elif not whole or (window is not None and window < tokens):
            masks += new * seen
            scored = max(scored, repeated * seen + new * seen * element_bytes + _kernel(shape, chunk))
    queries = new * shape.heads * shape.head_dim * element_bytes
    grows = 0 if whole else key // 2 * max(held.values())
    return Need(
        tokens,
        weights=shape.weights * element_bytes,
        keys=sum(held[window] for window in shape.windows) * key,
        activations=masks + new * _activations(shape, element_bytes),
        attention=masks + new * _inputs(shape, element_bytes) + max(grows, scored, queries),
        indices=batch * (tokens * _INDICES + shape.vocabulary * 2 * _FP32),
    )


def longest(
    shape: LanguageShape,
    memory: int,
    *,
    ranks: int,
    element_bytes: int,
    batch: int = 1,
    chunk: int | None = None,
    unmodified: bool = False,
) -> Need | None:
    """The longest prompt that fits.

    Args:
        shape: The model.
        memory: Bytes of a rank.
        ranks: Ranks that share the prompt.
        element_bytes: Bytes of an element.
        batch: Items.
        chunk: As for :func:`ask_for`.
        unmodified: As for :func:`ask_for`.

    Returns:
        What it needs; ``None`` where nothing fits.
    """

    def need(steps: int) -> Need:
        return ask_for(
            shape,
            steps * _STEP,
            ranks=ranks,
            element_bytes=element_bytes,
            batch=batch,
            chunk=chunk,
            unmodified=unmodified,
        )

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
    """Bytes a token in the phase of a layer that needs most, of those that do not attend."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    rotary = 3 * hidden + 5 * queries + keys
    feed_forward = 4 * hidden + _feed_forward(shape)
    normed = 2 * hidden * element_bytes + 3 * hidden * _FP32
    return max(max(rotary, feed_forward) * element_bytes, normed) + _tables(shape)


def _feed_forward(shape: LanguageShape) -> int:
    """Elements a token that feed-forward layers hold beside the states that they are given."""
    if shape.experts == 1:
        return 3 * shape.intermediate
    hidden, wide = shape.hidden, shape.intermediate
    biased = shape.biased_experts  # of each token's experts they are looked up
    gated = hidden + (9 if biased else 4) * wide
    return shape.experts_used * (max(gated, (5 if biased else 4) * hidden) + _NUMBERS)


def _inputs(shape: LanguageShape, element_bytes: int) -> int:
    """Bytes a token that a layer has while it attends: states, queries, new keys, and an output."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    return (3 * hidden + 2 * queries + keys) * element_bytes + _tables(shape)


def _tables(shape: LanguageShape) -> int:
    """Bytes a token of rotary tables, of two kinds where some layers have windows."""
    return (4 if any(shape.windows) else 2) * shape.head_dim * _FP32


def _scores(shape: LanguageShape, past: int, new: int, ranks: int, element_bytes: int, batch: int) -> int:
    """Bytes of the scores that are held where no fused kernel takes a layer: those of a block of queries and keys.

    That is so in layers with windows, and where items of a batch are padded to one length.
    """
    together = past + new if ranks == 1 else new  # keys that lie beside each other
    most = 0
    for window in {*shape.windows}:
        if window is None and batch == 1:
            continue
        seen = together if window is None else min(together, max(new, window - 1))
        rows = min(_QUERIES, new, max(1, _SCORES // (batch * shape.heads * min(_SCORED, seen))))
        span = min(_SCORED, seen, seen if window is None else window + rows)
        scores = batch * shape.heads * rows * (span * _COPIES + 2 * shape.head_dim) * _FP32  # and queries, scaled
        copied = batch * shape.key_bytes(_FP32) // 2 * span if element_bytes < _FP32 else 0
        most = max(most, scores + copied)
    return most


def _exchange(
    shape: LanguageShape, past: int, chunk: int, ranks: int, element_bytes: int, batch: int
) -> tuple[int, int]:
    """Bytes of messages that stay between calls, and of attention of some tokens behind ``past`` others, with these.

    The latter is what it holds beside its inputs, and its output.
    """
    new = -(-chunk // ranks)
    rows = batch * shape.heads * new
    queries, partial = rows * shape.head_dim * element_bytes, rows * (shape.head_dim * _FP32 + LSE_BYTES)
    own = 2 * partial + 2 * queries  # over keys before and its own ones, which are folded
    if ranks == 1:
        return 0, own
    peak, stays = _scheduled(
        ranks, chunk, shape.heads, shape.head_dim, kv_heads=shape.kv_heads, batch=batch, element_bytes=element_bytes
    )
    if not past:
        return stays, peak + queries + 2 * batch * new * shape.key_bytes(element_bytes)
    rounds = min(ROUNDS_AT_ONCE, ranks - 1)
    if not _queries_travel(shape, past, chunk):
        keys = batch * (-(-past // ranks) + new) * shape.key_bytes(element_bytes)
        copies = 2 if batch * shape.kv_heads > 1 else 1  # those of one head go as they lie
        return stays, stays + copies * rounds * keys + own + _kernel(shape, shape.groups * new)
    sent = queries + rows * LSE_BYTES
    answering = max(
        min(rounds, ranks - distance) * queries + 2 * min(ROUNDS_AT_ONCE + 1, distance) * sent
        for distance in range(1, ranks)
    )  # the next queries have come, and outputs come and go; merged ones of three rounds before are gone
    merged = partial + (partial if element_bytes < _FP32 else 0)
    return stays, stays + queries + max(rounds * queries + own, answering + merged) + _kernel(shape, shape.groups * new)


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


def _kernel(shape: LanguageShape, queries: int) -> int:
    """Bytes of scores that torch's kernel for processors holds, a thread (``FlashAttentionKernel.cpp``)."""
    rows = 256 if queries >= 768 else 64 if queries >= 192 else 32
    return rows * (_KEYS_AT_ONCE + 2 + shape.head_dim) * _FP32
