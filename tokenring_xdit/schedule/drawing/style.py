"""How pictures look: colours for light and dark surroundings, fonts, and how wide text may become.

A picture paints its own background, so that it can be read wherever it stands, and is light on paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.schedule.plan import Kind

__all__ = ["DARK", "LIGHT", "ROOT", "Colours", "class_of_rank", "mono_width", "sans_width", "stylesheet"]

ROOT = "tokenring-schedule"
"""Class of the outermost element, to which all rules are confined: pages may hold several pictures."""

_MONO, _SANS = 0.61, 0.58
"""Width of a character in sizes of the font: of any usual monospaced one, and of a wide sans-serif one on average."""


@dataclass(frozen=True)
class Colours:
    """One set of colours.

    Attributes:
        paper: Background.
        band: Background of every second step.
        ink: Text.
        muted: Text of less weight.
        line: Frames and the lines of ranks.
        keys: What stands for keys in a label.
        kinds: Arrows, by what they carry.
        owners: What belongs to the queries of each rank, in rank order. Hues of neighbours are far apart; there are
            eight, and others between them from the ninth rank on.
    """

    paper: str
    band: str
    ink: str
    muted: str
    line: str
    keys: str
    kinds: dict[Kind, str]
    owners: tuple[str, ...]


# fmt: off
LIGHT = Colours(
    paper="#ffffff",
    band="#f5f7f9",
    ink="#1f2328",
    muted="#59636e",
    line="#c3cad2",
    keys="#dfe3e8",
    kinds={Kind.Q: "#1f6fd6", Kind.KV: "#c4500a", Kind.O: "#0d7d4d"},
    owners=(
        "#b5d8fe", "#fcc999", "#ade5b7", "#febfdc", "#dbcafe", "#e1d695", "#8ee6ea", "#ffc3be",
        "#9cb0fb", "#d7ad5d", "#a4c171", "#e099d0", "#5ec2eb", "#ee9e75", "#5ccbb0", "#f196a2",
    ),
)
DARK = Colours(
    paper="#0d1117",
    band="#151b23",
    ink="#f0f6fc",
    muted="#a2abb5",
    line="#454d57",
    keys="#3a424c",
    kinds={Kind.Q: "#6cb0ff", Kind.KV: "#ff9b57", Kind.O: "#4fd08b"},
    owners=(
        "#255079", "#6c4210", "#255a33", "#6f3854", "#544174", "#584e05", "#01585c", "#753935",
        "#283366", "#4a3400", "#2e3f02", "#53234a", "#013e53", "#5c2602", "#004236", "#5d202b",
    ),
)
# fmt: on


def class_of_rank(rank: int) -> str:
    """Class of what has the colour of a rank's queries."""
    return f"r{rank}"


def mono_width(text: str, size: float) -> float:
    """At most how wide a label is in a monospaced font of that size."""
    return len(text) * size * _MONO


def sans_width(text: str, size: float) -> float:
    """About how wide a text is in a wide sans-serif font of that size."""
    return len(text) * size * _SANS


def stylesheet(world_size: int) -> str:
    """Rules for a picture of that many ranks."""
    dark = "\n".join(f"  {rule}" for rule in _colours(DARK, world_size))
    fixed = [
        "text { font-family: ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }",
        ".code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }",
        ".middle { text-anchor: middle; }",
        ".strong { font-weight: 600; }",
        ".link { fill: none; }",
        ".outline { fill: none; stroke-width: 1.2; }",
        f".{Kind.O.value}.link {{ stroke-dasharray: 5 3; }}",
        ".group { fill: none; stroke-dasharray: 2 4; stroke-linecap: round; stroke-width: 1.5; }",
    ]
    light = "\n".join([f".{ROOT} {rule}" for rule in fixed] + _colours(LIGHT, world_size))
    return f"\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _colours(colours: Colours, world_size: int) -> list[str]:
    rules = {
        ".paper": f"fill: {colours.paper}; stroke: {colours.line};",
        ".band": f"fill: {colours.band};",
        "text": f"fill: {colours.ink};",
        ".muted": f"fill: {colours.muted};",
        ".lifeline": f"stroke: {colours.line};",
        ".frame": f"fill: {colours.paper}; stroke: {colours.line};",
        ".node": f"stroke: {colours.muted};",
        ".group": f"stroke: {colours.muted};",
        ".keys": f"fill: {colours.keys};",
    }
    for kind, colour in colours.kinds.items():
        rules[f".{kind.value}.link"] = f"stroke: {colour};"
        rules[f".{kind.value}.tip"] = f"fill: {colour};"
        rules[f".{kind.value}.outline"] = f"stroke: {colour};"
    for rank, colour in enumerate(colours.owners[:world_size]):
        rules[f".{class_of_rank(rank)}"] = f"fill: {colour};"
    return [f".{ROOT} {selector} {{ {rule} }}" for selector, rule in rules.items()]
