"""How an answer is generated: the options of transformers' ``generate`` that a question may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tokenring_xdit.defaults import MAX_NEW_TOKENS
from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.pipelines.values import is_number, is_whole, shortly

__all__ = ["TextOptions", "option_mistakes", "overlaid"]

_MOST_TOKENS = 1_000_000
"""Tokens of an answer; where they would lie is planned before the first one, and more are a slip of the finger."""

_MOST_STOPS = 4
"""Texts that may end an answer."""

_LEAST = 0.01
_SCALES = f"a number from {_LEAST:g} to {1 / _LEAST:g}"
"""What scores are multiplied or divided by: beyond that they overflow, and no token could be sampled."""


def _ends_answers(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, (list, tuple))
        and 1 <= len(texts) <= _MOST_STOPS
        and all(isinstance(text, str) and text for text in texts)
    )


def _scales(value: Any) -> bool:
    return bool(_LEAST <= value <= 1 / _LEAST)


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda n: is_whole(n) and 1 <= n <= _MOST_TOKENS, f"a whole number from 1 to {_MOST_TOKENS}"),
    "do_sample": (lambda n: isinstance(n, bool), "True or False"),
    "temperature": (lambda n: is_number(n) and (n == 0 or _scales(n)), f"0, or {_SCALES}"),
    "top_k": (lambda n: is_whole(n) and n >= 1, "a whole number of at least 1"),
    "top_p": (lambda n: is_number(n) and 0 < n <= 1, "a number above 0 and at most 1"),
    "min_p": (lambda n: is_number(n) and 0 <= n <= 1, "a number from 0 to 1"),
    "repetition_penalty": (lambda n: is_number(n) and _scales(n), _SCALES),
    "stop": (_ends_answers, f"a text, or a list of up to {_MOST_STOPS} texts, none of them empty"),
}
"""Which values an option may have, and that in words."""

_DRAWING = ("temperature", "top_k", "top_p", "min_p")
"""Options that say how tokens are sampled."""


@dataclass(frozen=True)
class TextOptions:
    """Arguments of ``generate``; ``None`` leaves a value to the model.

    Attributes:
        max_new_tokens: Tokens that the answer may have.
        do_sample: Whether tokens are sampled; by default if any of the next four says how, and the
            likeliest is taken otherwise.
        temperature: What scores are divided by; 0 takes the likeliest.
        top_k: Sample from this many of the likeliest tokens.
        top_p: Sample from the likeliest tokens with this total probability.
        min_p: Sample from tokens with at least this part of the likeliest one's probability.
        repetition_penalty: Above 1 for less repetition.
        stop: Texts at which the answer ends, before the first one of them that comes.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TextOptions:
        """Those with values by their names.

        Raises:
            ConfigurationError: There are :func:`option_mistakes`.
        """
        found = list(option_mistakes(given))
        if found:
            raise ConfigurationError("; ".join(found))
        said = {name: value for name, value in given.items() if value is not None}
        if "stop" in said:
            said["stop"] = (said["stop"],) if isinstance(said["stop"], str) else tuple(said["stop"])
        return cls(**said)

    @property
    def draws(self) -> bool:
        """Whether tokens are sampled; greedy decoding otherwise."""
        if self.do_sample is not None:
            return self.do_sample
        return self.temperature != 0 and any(getattr(self, name) is not None for name in _DRAWING)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``generate``."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "stop"}
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
    drawing, greedy = _about_drawing(given)
    if drawing and greedy:
        yield (
            f"{greedy[0]}={given[greedy[0]]} means greedy decoding, and {drawing[0]}={given[drawing[0]]} is about "
            "sampling: leave one of them out"
        )


def overlaid(usual: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a question over those that are taken where it says nothing.

    Where it says how tokens are sampled, or that none are, the usual ones that say the opposite are left out.

    Args:
        usual: Options without :func:`option_mistakes`.
        said: Those of the question; ``None`` leaves a value to the usual ones.
    """
    given = {name: value for name, value in said.items() if value is not None}
    drawing, greedy = _about_drawing(given)
    usually_drawing, usually_greedy = _about_drawing(usual)
    gone = {*(usually_greedy if drawing else ()), *(usually_drawing if greedy else ())}
    return {**{name: value for name, value in usual.items() if name not in gone}, **given}


def _about_drawing(given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Which options say how tokens are sampled, and which ask for greedy decoding."""
    drawing = [name for name in _DRAWING if given.get(name) is not None and (name, given[name]) != ("temperature", 0)]
    drawing += ["do_sample"] * (given.get("do_sample") is True)
    return drawing, [name for name, value in (("do_sample", False), ("temperature", 0)) if given.get(name) == value]
