"""What a sweep of level ``text`` measures: some tokens of a language model, behind others that were computed before."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from tokenring_xdit.bench.plan import CallShape, Level, Strategy, StrategyKind, lengths_in_words
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.language_shapes import LanguageShape
from tokenring_xdit.pipelines.text_models import text_shape
from tokenring_xdit.schedule import Auto, Mask, ScheduleSpec, build

__all__ = ["TextShape", "text_model"]


@functools.cache
def text_model(name: str) -> LanguageShape:
    """Look a language model up; of one that is loaded its configuration is read, and nothing else.

    Args:
        name: ``random-llama:...``, ``smollm2``, or folder or hub name of a language model.

    Raises:
        ConfigurationError: There is no such model.
        UnsupportedError: It is of a kind that was not compared with one process.
    """
    return text_shape(name)


@dataclass(frozen=True)
class TextShape(CallShape):
    """Tokens of a language model; heads and their width are those of its attention.

    ``queries`` of the ``tokens`` are new, the others were computed before: a whole prompt where all are new, a step of
    an answer where one is.

    Attributes:
        model: As the sweep calls it.
        kv_heads: Heads of keys and values.
        answer: Tokens that are generated after a whole prompt, to be compared with those of one process.
        chunk: Number of new tokens computed at a time; ``None`` for all.
        text_file: File with the text that they are the beginning of; ``None`` for random tokens.
    """

    level: ClassVar[Level] = Level.TEXT

    model: str
    kv_heads: int
    answer: int = 0
    text_file: str | None = None
    chunk: int | None = None

    @classmethod
    def of(
        cls,
        ranks: int,
        model: str,
        tokens: int,
        queries: int | None,
        batch: int,
        dtype: str,
    ) -> TextShape:
        """Fill in what follows from the model.

        Raises:
            TokenRingError: There is no such model, or it was not compared.
        """
        found = text_model(model)
        asking = None if queries == tokens else queries
        return cls(ranks, tokens, asking, found.heads, found.head_dim, batch, dtype, model, found.kv_heads)

    @property
    def past(self) -> int:
        """Tokens that were computed before."""
        return 0 if self.queries is None else self.tokens - self.queries

    def refusal(self, strategy: Strategy) -> str | None:
        """As in the base class; tokens need not divide, nor heads."""
        if strategy.captured:
            return f"{strategy}: calls of language models are not captured: use '{strategy.launched}'"
        if strategy.kind.of_diffusers:
            return f"{strategy} is diffusers', which has no language models: use single, balanced, pass-kv, pass-q, ..."
        if strategy.kind.upstream or strategy.ulysses > 1:
            return f"{strategy} is xfuser's, which has no language models: use single, balanced, pass-kv, pass-q, ..."
        if strategy.kind is not StrategyKind.SINGLE and self.ranks == 1:
            return f"{strategy} needs more than one rank: use 'single', or more ranks"
        if self.past < 0:
            return f"{self.queries} queries are more than the {self.tokens} tokens"
        if self.past and any(text_model(self.model).windows):
            return (
                f"{self.model} has layers with windows, whose caches forget: measure whole prompts of it (no queries)"
            )
        if isinstance(strategy.schedule, Auto) and strategy.schedule != Auto():
            return f"{strategy}: language models plan each prompt and turn, without trials or nodes: use schedule:auto"
        if isinstance(strategy.schedule, ScheduleSpec):
            try:
                build(str(strategy.schedule), self.ranks, Mask.CAUSAL, self.kv_heads)
            except ScheduleError as error:
                return str(error)
        return None

    def __str__(self) -> str:
        lengths = lengths_in_words(self.tokens, self.queries)
        chunk = "" if self.chunk is None else f" in chunks of {self.chunk}"
        return f"{self.model}, {lengths}{chunk}, batch {self.batch}, {self.dtype}, {self.ranks} ranks"
