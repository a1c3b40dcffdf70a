"""One rank's share of a comparison of language models: new tokens behind cached ones, sharded in each way by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from tokenring_xdit.bench.commands import Checked, Prepare, Timed
from tokenring_xdit.bench.gather_kv import gathering, sending_nothing
from tokenring_xdit.bench.instruments import (
    barrier,
    counted_by,
    largest,
    observe,
    synchronize,
    traced_call,
    with_same_weights,
)
from tokenring_xdit.bench.plan import Strategy, StrategyKind
from tokenring_xdit.bench.text import TextShape
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.transformers import parallelize
from tokenring_xdit.pipelines.random_llama import RandomLlama, is_random_llama
from tokenring_xdit.pipelines.text_models import load_text_model

__all__ = ["TextBench"]

_PIECE = 256
"""Tokens whose logits are compared at once."""

_PREFILL = {
    StrategyKind.BALANCED: "balanced",
    StrategyKind.PASS_KV: "keys",
    StrategyKind.PASS_Q: "queries",
    StrategyKind.GATHER_KV: "keys",
}
"""What ``parallelize`` calls them."""


@dataclass(frozen=True)
class _LoadedText:
    """A model on this rank, which stays while problems use it.

    Attributes:
        made_of: Model and dtype.
        tokenizer: Its own; ``None`` where it has none.
        plain: The unmodified model.
        parallel: The same weights over all ranks; ``None`` on one rank alone.
    """

    made_of: tuple[str, str]
    tokenizer: Any
    plain: Any
    parallel: Any


class TextBench:
    """Tokens on one rank. All ranks call its methods at the same time.

    Args:
        command: The problem.
        device: Where to compute.
    """

    _loaded: ClassVar[_LoadedText | None] = None

    def __init__(self, command: Prepare, device: torch.device) -> None:
        assert isinstance(command.shape, TextShape)
        self._shape, self._seed, self._device = command.shape, command.seed, device
        self._model = self._load()
        self._name = cache_name(type(self._model.plain).forward)
        self._ids = self._tokens().to(device)
        self._caches: dict[bool, Any] = {}
        self.threads = torch.get_num_threads()
        self.kernel = str(self._model.plain.config._attn_implementation)
        self._expected = self._reference()
        self._answer = self._reference_answer()

    def _load(self) -> _LoadedText:
        made_of = self._shape.model, self._shape.dtype
        if TextBench._loaded is not None and TextBench._loaded.made_of == made_of:
            return TextBench._loaded
        TextBench._loaded, tokenizer = None, None  # its weights make room
        if is_random_llama(self._shape.model):
            model = RandomLlama.parse(self._shape.model).make(self._shape.dtype)
        else:
            tokenizer, model = load_text_model(self._shape.model, self._shape.dtype)
        model = model.to(self._device)
        plain = with_same_weights(model)
        parallel = parallelize(model, tokenring_degree=self._shape.ranks) if self._shape.ranks > 1 else None
        TextBench._loaded = _LoadedText(made_of, tokenizer, plain, parallel)
        return TextBench._loaded

    def _tokens(self) -> Tensor:
        """``[B, S]``, the same on all ranks."""
        shape = self._shape
        if shape.text_file is None:
            generator = torch.Generator().manual_seed(self._seed)
            most = self._model.plain.config.vocab_size
            return torch.randint(3, most, (shape.batch, shape.tokens), generator=generator)
        if self._model.tokenizer is None:
            raise ConfigurationError(f"{shape.model} has no tokenizer for text_file: leave it out, for random tokens")
        text = Path(shape.text_file).read_text(encoding="utf-8")
        ids: Tensor = self._model.tokenizer(text, return_tensors="pt").input_ids
        if ids.shape[1] < shape.tokens:
            raise ConfigurationError(f"text_file {shape.text_file} has {ids.shape[1]} tokens, not {shape.tokens}")
        return ids[:, : shape.tokens].expand(shape.batch, -1)

    @torch.no_grad()
    def _reference(self) -> Tensor:
        """Hidden states of the new tokens in one process, ``[B, T, hidden]``, told to all."""
        plain, new = self._model.plain, self._shape.tokens - self._shape.past
        if dist.get_rank() == 0:
            hidden = plain.get_decoder()(input_ids=self._ids, use_cache=False).last_hidden_state
            expected: Tensor = hidden[:, self._shape.past :].contiguous()
        else:
            size = (self._shape.batch, new, plain.config.hidden_size)
            expected = torch.empty(size, dtype=plain.dtype, device=self._device)
        dist.broadcast(expected, 0)
        return expected

    @torch.no_grad()
    def _reference_answer(self) -> list[list[int]] | None:
        if not self._shape.answer or self._shape.past or dist.get_rank() != 0:
            return None
        return self._generate(self._model.plain, None)

    def _generate(self, model: Any, cache: Any) -> list[list[int]]:
        given = {} if cache is None else {self._name: cache}
        if self._shape.chunk is not None:
            given["prefill_chunk_size"] = self._shape.chunk
        found = model.generate(
            self._ids,
            attention_mask=torch.ones_like(self._ids),
            max_new_tokens=self._shape.answer,
            do_sample=False,
            pad_token_id=0,
            **given,
        )
        tokens: list[list[int]] = found[:, self._shape.tokens :].tolist()
        return tokens

    # -- strategies --------------------------------------------------------------------------------

    def _call(self, strategy: Strategy | None) -> Callable[[], object]:
        """The call to measure: the new tokens, behind those that were computed before."""
        alone = strategy is not None and strategy.kind is StrategyKind.SINGLE
        model = self._model.plain if alone else self._model.parallel
        if alone and dist.get_rank() != 0:
            return lambda: None
        parts, past = self._parts(), self._shape.past

        @torch.no_grad()
        def call() -> object:
            if not past and self._shape.chunk is None:
                return model(input_ids=parts[0], use_cache=True, logits_to_keep=1)
            cache = self._behind(alone)
            output = [model(input_ids=part, logits_to_keep=1, **{self._name: cache}) for part in parts][-1]
            if past:
                cache.crop(past - self._shape.tokens)
            return output

        return call

    def _parts(self) -> tuple[Tensor, ...]:
        """The new tokens, those together that are computed at a time."""
        new = self._ids[:, self._shape.past :]
        return torch.split(new, self._shape.chunk or new.shape[1], dim=1)

    def _behind(self, alone: bool) -> Any:
        """A cache of what was computed before: the same each time, where that is anything."""
        past = self._shape.past
        if alone in self._caches:
            return self._caches[alone]
        model = self._model.plain if alone else self._model.parallel
        cache = DynamicCache(config=model.config) if alone else model.tokenring.cache()
        if past:
            model(input_ids=self._ids[:, :past], logits_to_keep=1, **{self._name: cache})
            self._caches[alone] = cache
        return cache

    @contextmanager
    def _strategy(self, strategy: Strategy | None) -> Iterator[None]:
        """Inside, the parallel model computes so; ``None`` is what each rank computes, without communication."""
        if strategy is not None and strategy.kind is StrategyKind.SINGLE:
            yield
            return
        parallel = self._model.parallel.tokenring
        if strategy is None:
            parallel.use("keys")
            with sending_nothing(parallel.exchanges):
                yield
            return
        parallel.use(_PREFILL.get(strategy.kind) or str(strategy.schedule))
        if strategy.kind is StrategyKind.GATHER_KV:
            with gathering(parallel.exchanges):
                yield
        else:
            yield

    # -- measurements ------------------------------------------------------------------------------

    def time(self, strategy: Strategy | None) -> Timed:
        """One call on this rank, from a barrier on."""
        with self._strategy(strategy):
            call = self._call(strategy)
            barrier(self._device)
            start = time.perf_counter()
            call()
            synchronize(self._device)
            return Timed(time.perf_counter() - start)

    def trace(self, strategy: Strategy) -> Traced | None:
        """Record one call, without what is gathered."""
        with self._strategy(strategy):
            return traced_call(self._call(strategy), str(strategy), self._device, through_usp=False)

    def check(self, strategy: Strategy) -> Checked:
        """As for calls of attention: until it has chosen what it does, then for the memory, then to look at it."""
        with self._strategy(strategy):
            call, past = self._call(strategy), bool(self._shape.past)  # what was computed before is no part of it
            _, figures = observe(call, self._device, lambda: counted_by(self._sent), rehearsed=past)
            difference, scale, rows = self._difference(strategy)
            keys, same = self._answered(strategy)
        return Checked(
            difference=difference,
            scale=scale,
            rows=rows,
            **figures,
            keys=keys,
            same_answer=same,
        )

    def _sent(self) -> int:
        sent = 0 if self._model.parallel is None else self._model.parallel.tokenring.report()["bytes_sent"]
        return int(sent)

    @torch.no_grad()
    def _difference(self, strategy: Strategy) -> tuple[float, float, int]:
        """Largest difference of logits of this rank's new tokens, largest logit, and how many tokens."""
        if strategy.kind is StrategyKind.SINGLE:
            return 0.0, 1.0, self._expected.shape[1] if dist.get_rank() == 0 else 0  # the reference itself
        parallel, past = self._model.parallel.tokenring, self._shape.past
        cache = self._behind(False) if past or self._shape.chunk is not None else None
        difference = scale = 0.0
        count = at = 0
        for new in self._parts():
            hidden, rows = parallel.hidden(new, cache=cache)
            wanted = self._expected[:, at + rows.start : at + rows.stop]
            for start in range(0, len(rows), _PIECE):
                piece = slice(start, start + _PIECE)
                expected, found = self._logits(wanted[:, piece]), self._logits(hidden[:, piece])
                difference = max(difference, largest((found - expected).abs()))
                scale = max(scale, largest(expected.abs()))
            count, at = count + len(rows), at + new.shape[1]
        if past and cache is not None:
            cache.crop(past - self._shape.tokens)
        return difference, scale, count

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, with whatever the unmodified model does to them."""
        decoder, ids = self._model.plain.get_decoder(), self._ids[:, : hidden.shape[1]]
        forward = decoder.forward
        decoder.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
        try:
            logits: Tensor = self._model.plain(input_ids=ids).logits
        finally:
            del decoder.forward
            assert decoder.forward.__func__ is forward.__func__
        return logits.double()

    @torch.no_grad()
    def _answered(self, strategy: Strategy) -> tuple[int | None, bool | None]:
        """Tokens whose keys this rank holds, and whether an answer is that of one process."""
        if strategy.kind is StrategyKind.SINGLE:
            return self._shape.tokens if dist.get_rank() == 0 else 0, None
        if self._shape.past:
            return max(self._caches[False].held()), None
        cache = self._behind(False)
        if not self._shape.answer:
            for part in self._parts():
                self._model.parallel(input_ids=part, logits_to_keep=1, **{self._name: cache})
            return max(cache.held()), None
        found = self._generate(self._model.parallel, cache)
        return max(cache.held()), None if self._answer is None else found == self._answer
