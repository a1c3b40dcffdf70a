"""Amounts of memory and of tokens as users write them: ``24GiB``, ``128k``."""

from __future__ import annotations

import re

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown

__all__ = ["bytes_in_words", "parse_bytes", "parse_tokens"]

_WRITTEN = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?P<unit>[a-z]*)")

_BYTES = {"b": 1, **{f"{p}b": 10**e for p, e in zip("kmgt", (3, 6, 9, 12), strict=True)}}
_BYTES |= {f"{p}ib": 2**e for p, e in zip("kmgt", (10, 20, 30, 40), strict=True)}
_TOKENS = {"": 1, "k": 2**10, "m": 2**20}


def parse_bytes(text: str) -> int:
    """Read ``24GiB``, ``80 GB`` or ``1048576b``; GiB are powers of two, GB powers of ten.

    Raises:
        ConfigurationError: It is not an amount of memory.
    """
    return _parse(text, _BYTES, "an amount of memory: write a number and a unit, as in 24GiB or 80GB")


def parse_tokens(text: str) -> int:
    """Read ``4096``, ``128k`` or ``1m``; k is 1024, m its square, as models' lengths are given.

    Raises:
        ConfigurationError: It is not a number of tokens.
    """
    return _parse(text, _TOKENS, "a number of tokens, such as 4096, 128k (of 1024) or 1m")


def _parse(text: str, units: dict[str, int], what: str) -> int:
    found = _WRITTEN.fullmatch(text.strip().lower())
    if found is None or found["unit"] not in units:
        raise ConfigurationError(f"{shown(text)} is not {what}")
    return round(float(found["number"]) * units[found["unit"]])


def bytes_in_words(size: float) -> str:
    """An amount of memory for people, in the largest unit of 1024 that it has one of."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
