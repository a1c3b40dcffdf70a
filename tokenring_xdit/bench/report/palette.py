"""How a strategy looks: the same colour, marker and dash in every plot, light or dark, on paper or on a screen.

The eight hues were chosen by search so that people with any of the three kinds of colour blindness tell them apart,
and that markers stand out from either background; the tests measure both. Relatives share a hue and differ in marker
and dash.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["BACKGROUNDS", "Hue", "Style", "family", "is_token_ring", "label", "styles"]

BACKGROUNDS = ("#FFFFFF", "#12161C")
"""Behind the plots, light and dark."""


@dataclass(frozen=True)
class Hue:
    """One colour, as it is on a light and on a dark background."""

    light: str
    dark: str


_ORANGE, _INK = Hue("#E37119", "#E2701D"), Hue("#1C232C", "#EEF2F7")
_BLUE, _TEAL, _SAND = Hue("#003EE3", "#4C7FE8"), Hue("#1F6A68", "#4BF6A0"), Hue("#AD8C55", "#E7E018")
_PURPLE, _SKY, _RED = Hue("#441B66", "#C95C9C"), Hue("#4594CC", "#84C6F6"), Hue("#910018", "#E91653")
_GREY = Hue("#6B7785", "#98A3B1")


@dataclass(frozen=True)
class Style:
    """How a strategy is drawn.

    Attributes:
        hue: Its colour.
        symbol: Marker, by plotly's name.
        dash: ``solid``, ``dash``, ``dot`` or ``dashdot``.
        prominent: Whether it is drawn thicker, above the others.
    """

    hue: Hue
    symbol: str
    dash: str = "solid"
    prominent: bool = False


_STYLES = {
    "token_ring": Style(_ORANGE, "circle", prominent=True),
    "xfuser-ring": Style(_INK, "square"),
    "ring": Style(_BLUE, "diamond"),
    "direct": Style(_TEAL, "triangle-up"),
    "bidirectional": Style(_PURPLE, "x"),
    "ulysses": Style(_SAND, "cross"),
    "mesh": Style(_SKY, "star"),
    "hierarchical": Style(_RED, "pentagon"),
    "direct_kv": Style(_TEAL, "triangle-down", "dash"),
    "bidirectional_q": Style(_PURPLE, "hexagon", "dash"),
    "xfuser-ring-alltoall": Style(_GREY, "square-open", "dash"),
    "single": Style(_GREY, "circle-open", "dot"),
}
_UNKNOWN = tuple(
    Style(hue, symbol, "dashdot")
    for symbol in ("triangle-left", "triangle-right")
    for hue in (_RED, _SKY, _PURPLE, _SAND, _TEAL, _BLUE)
)
_DASHES = ("solid", "dash", "dot", "dashdot")


def label(strategy: str) -> str:
    """A short name: schedules go without ``schedule:``."""
    return strategy.removeprefix("schedule:")


def family(strategy: str) -> str:
    """The name without its options."""
    return label(strategy).partition(":")[0]


def is_token_ring(strategy: str) -> bool:
    """Whether it is TokenRing as published, in pieces or whole."""
    return family(strategy) == "token_ring"


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
