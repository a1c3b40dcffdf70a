"""How a strategy looks: the same colour, marker and dash in every plot, light or dark, on paper or on a screen.

The eight hues were chosen by search so that people with any of the three kinds of colour blindness tell them apart,
and that markers stand out from either background; the tests measure both. Relatives share a hue and differ in marker
and dash. What a schedule has of this is stated where the schedule is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokenring_xdit.schedule import ALGORITHMS, Published, known_as

__all__ = ["BACKGROUNDS", "Hue", "Style", "family", "is_token_ring", "label", "styles"]

BACKGROUNDS = ("#FFFFFF", "#12161C")
"""Behind the plots, light and dark."""


@dataclass(frozen=True)
class Hue:
    """One colour, as it is on a light and on a dark background."""

    light: str
    dark: str


_HUES = {
    "orange": Hue("#E37119", "#E2701D"),
    "ink": Hue("#1C232C", "#EEF2F7"),
    "blue": Hue("#003EE3", "#4C7FE8"),
    "teal": Hue("#1F6A68", "#4BF6A0"),
    "sand": Hue("#AD8C55", "#E7E018"),
    "purple": Hue("#441B66", "#C95C9C"),
    "sky": Hue("#4594CC", "#84C6F6"),
    "red": Hue("#910018", "#E91653"),
    "grey": Hue("#6B7785", "#98A3B1"),
}
"""By the names that schedules have for them."""


@dataclass(frozen=True)
class Style:
    """How a strategy is drawn.

    Attributes:
        hue: Its colour.
        symbol: Marker: a name of the report's symbols (``bench/report/symbols.py``).
        dash: ``solid``, ``dash``, ``dot`` or ``dashdot``.
        prominent: Whether it is drawn thicker, above the others.
    """

    hue: Hue
    symbol: str
    dash: str = "solid"
    prominent: bool = False


def _known() -> dict[str, Style]:
    styles = {
        "xfuser-ring": Style(_HUES["ink"], "square"),
        "ulysses": Style(_HUES["sand"], "cross"),
        "xfuser-ring-alltoall": Style(_HUES["grey"], "square-open", "dash"),
        "diffusers-ulysses": Style(_HUES["sand"], "star-open", "dash"),
        "diffusers-ring": Style(_HUES["ink"], "star", "dot"),
        "single": Style(_HUES["grey"], "circle-open", "dot"),
    }
    for name, algorithm in ALGORITHMS.items():
        look = algorithm.look
        if look is not None:
            styles[name] = Style(_HUES[look.hue], look.symbol, look.dash, is_token_ring(name))
    return styles


_DASHES = ("solid", "dash", "dot", "dashdot")


def label(strategy: str) -> str:
    """A short name: schedules go without ``schedule:``."""
    return strategy.removeprefix("schedule:")


def family(strategy: str) -> str:
    """The name without its options."""
    return label(strategy).partition(":")[0]


def is_token_ring(strategy: str) -> bool:
    """Whether it is TokenRing as published, in pieces or whole."""
    return family(strategy) == known_as(Published.TOKEN_RING)


_STYLES = _known()
_UNKNOWN = tuple(
    Style(_HUES[hue], symbol, "dashdot")
    for symbol in ("triangle-left", "triangle-right")
    for hue in ("red", "sky", "purple", "sand", "teal", "blue")
)


def styles(strategies: Iterable[str]) -> dict[str, Style]:
    """A look for each strategy, in the order given. Those of known families do not depend on which others there are.

    Args:
        strategies: Names; a family's variants, such as ``direct`` and ``direct:chunks=4``, differ in their dash.
    """
    families: dict[str, list[str]] = defaultdict(list)
    names = list(dict.fromkeys(strategies))
    for name in names:
        families[family(name)].append(name)
    unknown = sorted(known for known in families if known not in _STYLES)
    found: dict[str, Style] = {}
    for name in names:
        own = family(name)
        style = _STYLES.get(own) or _UNKNOWN[unknown.index(own) % len(_UNKNOWN)]
        place = sorted(families[own]).index(name)
        if place:
            dash = _DASHES[(_DASHES.index(style.dash) + place) % len(_DASHES)]
            opened = style.symbol if style.symbol.endswith("-open") else f"{style.symbol}-open"
            style = replace(style, dash=dash, symbol=opened if place % 2 else style.symbol)
        found[name] = style
    return found
