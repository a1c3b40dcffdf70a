"""Links and their rates: what a network is made of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import named, shown

__all__ = ["FRAME", "FRAME_SHARE", "Counts", "Link", "Rate"]

_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_RATE = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?P<unit>[a-z]+)(?P<per_second>/s)?")

FRAME = 1514
"""Bytes of a full Ethernet frame, as ``tc`` counts it."""

FRAME_SHARE = 1448 / FRAME
"""Payload in a full Ethernet frame of TCP as ``tc`` counts it; the one place where the two are converted."""


@dataclass(frozen=True, order=True)
class Rate:
    """A transfer rate.

    Attributes:
        bits_per_second: Bits a second, of what :class:`Counts` says.
    """

    bits_per_second: int

    def __post_init__(self) -> None:
        if self.bits_per_second <= 0:
            raise ConfigurationError(f"a rate of {self.bits_per_second} bit a second carries nothing")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate such as ``100mbit``, ``2.5gbit`` or ``10 Gbit/s``; prefixes are powers of ten.

        Raises:
            ConfigurationError: It is not one.
        """
        found = _RATE.fullmatch(text.strip().lower())
        if found is None:
            raise ConfigurationError(
                f"{shown(text)} is not a rate: write a number and a unit, as in 100mbit or 2.5gbit"
            )
        if found["unit"] not in _UNITS:
            bytes_or_bits = found["unit"].endswith("ps") or found["unit"].endswith("b")
            why = "bits and bytes are easily confused, so units are written out. " if bytes_or_bits else ""
            raise ConfigurationError(
                f"rate {shown(text)} has the unit {shown(found['unit'])}: {why}{nearest(named(found['unit']), _UNITS)}"
            )
        return cls(round(float(found["number"]) * _UNITS[found["unit"]]))

    def scaled(self, factor: float) -> Rate:
        """This rate times a factor."""
        return Rate(round(self.bits_per_second * factor))

    def __str__(self) -> str:
        unit = max((u for u in _UNITS if _UNITS[u] <= self.bits_per_second), key=_UNITS.__getitem__)
        whole, rest = divmod(self.bits_per_second, _UNITS[unit])
        digits = f"{rest:0{len(str(_UNITS[unit])) - 1}d}".rstrip("0") if rest else ""
        return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"


class Counts(Enum):
    """What the rates of a network count. The values are those of a file's ``counts``."""

    FRAMES = "frames"
    """Ethernet frames whole, as ``tc`` and emulated networks do; :data:`FRAME_SHARE` of them is payload."""
    PAYLOAD = "payload"
    """What ranks hand over, as the probe measures it."""
    LINK = "link"
    """A maker's figure for the link, protocol included. How much of it is payload is not known; it is taken whole."""


@dataclass(frozen=True)
class Link:
    """A full-duplex link: both directions carry their rate at the same time.

    Attributes:
        a: Node at one end.
        b: Node at the other end.
        rate: From ``a`` to ``b``.
        back: From ``b`` to ``a``.
        delay: Seconds that a bit is under way.
        messages: What a message alone reaches, by its size: bytes and rate, sizes ascending; empty where that is not
            known. Between two sizes rates go with the logarithm of the size, outside they stay.
    """

    a: str
    b: str
    rate: Rate
    back: Rate
    delay: float = 0.0
    messages: tuple[tuple[int, Rate], ...] = ()

    @property
    def ends(self) -> tuple[str, str]:
        """Both nodes."""
        return self.a, self.b

    def message_rate(self, size: int) -> float:
        """Bytes a second that one message of that many bytes reaches at most."""
        if not self.messages:
            return math.inf
        least, most = self.messages[0], self.messages[-1]
        size = min(max(size, least[0]), most[0])
        below = max((known for known in self.messages if known[0] <= size), key=lambda known: known[0])
        above = min((known for known in self.messages if known[0] >= size), key=lambda known: known[0])
        low, high = (rate.bits_per_second / 8 for _, rate in (below, above))
        share = math.log(size / below[0]) / math.log(above[0] / below[0]) if above > below else 0.0
        return low + share * (high - low)

    def rate_from(self, node: str) -> Rate:
        """The rate of what ``node`` sends over this link."""
        return self.rate if node == self.a else self.back

    def __str__(self) -> str:
        return f"{self.a} - {self.b}"
