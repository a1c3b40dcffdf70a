"""What a theme is to Vega-Lite: a configuration that gives names in charts their colours.

Charts say ``category`` for the colours of strategies, ``ordinal`` for those of kinds of span, and name the styles of
other marks; one chart therefore serves on a light and on a dark page, and in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenring_xdit.bench.report.palette import BACKGROUNDS, Style
from tokenring_xdit.bench.report.traces import look_of

__all__ = ["themes"]

_FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_TEXT, _GRID = ("#1C232C", "#E4E9F0"), ("#DDE2E8", "#303843")
_HEAT = (
    ("#EEF3F8", "#9CC4E4", "#3C87BE", "#0B4A80", "#052544"),
    ("#1B222B", "#17456B", "#2B7FB8", "#7CC4EE", "#E8F6FF"),
)


def themes(looks: Mapping[str, Style], kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The configurations ``light`` and ``dark``.

    Args:
        looks: The styles of all strategies, in the order in which charts name these.
        kinds: Kinds of all spans, likewise.
    """
    hues = {"category": [style.hue for style in looks.values()], "ordinal": [look_of(kind).hue for kind in kinds]}
    return {
        name: {
            **_config(BACKGROUNDS[place], _TEXT[place], _GRID[place]),
            "range": {
                "heatmap": list(_HEAT[place]),
                **{key: [getattr(hue, name) for hue in found] for key, found in hues.items()},
            },
        }
        for place, name in enumerate(("light", "dark"))
    }


def _config(paper: str, text: str, grid: str) -> dict[str, Any]:
    words = {"labelColor": text, "titleColor": text, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": grid, "domainColor": grid, "tickColor": grid}
    looks = {"figure": {"color": text}, "outline": {"stroke": paper}, "quartiles": {"color": text}}
    return {
        "aria": False,  # the page names each chart, and has a table for its figures
        "background": paper,
        "font": _FONT,
        "padding": 4,
        "view": {"stroke": None},
        "axis": {**words, **lines, "titleFontWeight": "normal", "labelOverlap": "greedy"},
        "legend": {**words, "titleFontWeight": "normal", "orient": "bottom"},
        "title": {"color": text, "subtitleColor": text, "anchor": "start", "fontSize": 14, "subtitleFontSize": 11},
        "style": {**looks, "reference": {"color": text, "strokeDash": [2, 3]}, "separator": {"color": grid}},
    }
