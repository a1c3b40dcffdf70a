"""How an answer is generated: the options of transformers' ``generate`` that a question may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tokenring_xdit.defaults import MAX_NEW_TOKENS
from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.pipelines.options import is_number, is_whole, shortly

__all__ = ["TextOptions", "option_mistakes"]

_MOST_TOKENS = 1_000_000
"""Tokens of an answer; where they would lie is planned before the first one, and more are a slip of the finger."""

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda n: is_whole(n) and 1 <= n <= _MOST_TOKENS, f"a whole number from 1 to {_MOST_TOKENS}"),
    "do_sample": (lambda n: isinstance(n, bool), "True or False"),
    "temperature": (lambda n: is_number(n) and n >= 0, "a number of at least 0"),
    "top_k": (lambda n: is_whole(n) and n >= 1, "a whole number of at least 1"),
    "top_p": (lambda n: is_number(n) and 0 < n <= 1, "a number above 0 and at most 1"),
    "min_p": (lambda n: is_number(n) and 0 <= n <= 1, "a number from 0 to 1"),
    "repetition_penalty": (lambda n: is_number(n) and n > 0, "a number above 0"),
}
"""Which values an option may have, and that in words."""

_DRAWING = ("temperature", "top_k", "top_p", "min_p")
"""Options that say how tokens are drawn."""


@dataclass(frozen=True)
class TextOptions:
    """What ``generate`` is told; ``None`` leaves a value to the model.

    Attributes:
        max_new_tokens: Tokens that the answer may have.
        do_sample: Whether tokens are drawn; where it is not said they are if any of the next four says how, and the
            likeliest is taken otherwise.
        temperature: What scores are divided by; 0 takes the likeliest.
        top_k: How many of the likeliest tokens are drawn from.
        top_p: The likeliest tokens that have this probability together are drawn from.
        min_p: Tokens are drawn from that have this part of the likeliest one's probability.
        repetition_penalty: Above 1 for less repetition.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TextOptions:
        """Those with values by their names.

        Raises:
            ConfigurationError: There are :func:`option_mistakes`.
        """
        found = list(option_mistakes(given))
        if found:
            raise ConfigurationError("; ".join(found))
        return cls(**{name: value for name, value in given.items() if value is not None})

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, instead of the likeliest taken."""
        if self.do_sample is not None:
            return self.do_sample
        return self.temperature != 0 and any(getattr(self, name) is not None for name in _DRAWING)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``generate``."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        if not self.draws:
            del given["temperature"]  # 0, or not said
        told = {name: value for name, value in given.items() if value is not None}
        return {**told, "do_sample": self.draws, "num_beams": 1}


def option_mistakes(given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with generation options: unknown names, values out of range, and what has no effect together."""
    wrong = False
    for name, value in given.items():
        if name not in _RANGES:
            wrong = True
            yield f"there is no generation option '{name}'. {nearest(str(name), [*_RANGES, 'seed'])}"
        elif value is not None and not _RANGES[name][0](value):
            wrong = True
            yield f"{name} is {shortly(value)}; it has to be {_RANGES[name][1]}"
    if wrong:
        return
    drawing = [name for name in _DRAWING if given.get(name) is not None and (name, given[name]) != ("temperature", 0)]
    drawing += ["do_sample"] * (given.get("do_sample") is True)
    greedy = [name for name, value in (("do_sample", False), ("temperature", 0)) if given.get(name) == value]
    if drawing and greedy:
        yield (
            f"{greedy[0]}={given[greedy[0]]} takes the likeliest token, and {drawing[0]}={given[drawing[0]]} is about "
            "drawing one: leave one of them out"
        )
