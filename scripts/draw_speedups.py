"""Draw the plot of README.md from the tables of docs/benchmarks.md.

python scripts/draw_speedups.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"

NETWORKS = {
    "mesh-4": "4 hosts, a link between every two",
    "mesh-8": "8 hosts, a link between every two",
    "star-4": "4 hosts on a switch",
    "star-8": "8 hosts on a switch",
    "ring-4": "4 hosts in a ring",
    "two-level": "2 nodes of 4, 10 times slower between",
}
"""What sweeps measured on, by their names."""

STRATEGIES = {"schedule:auto": "auto", "ulysses": "Ulysses", "schedule:token_ring": "TokenRing as published"}


def measured() -> list[dict[str, Any]]:
    """How many times faster than xfuser's Ring each strategy was on each network, as the page says."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    rows = []
    for sweep, network in NETWORKS.items():
        table = page.partition(f"<code>{sweep}.yaml</code>")[2].partition("</details>")[0]
        for strategy, name in STRATEGIES.items():
            (times,) = re.findall(rf"^\| `{strategy}` \| [^|]+ \| ([\d.]+) \|", table, flags=re.MULTILINE)
            rows.append({"network": network, "strategy": name, "times": float(times)})
    return rows


def chart() -> Any:
    """Bars, a group for each network, in the colours of the reports."""
    import altair as alt

    from tokenring_xdit.bench.report.palette import styles

    looks = styles(tuple(STRATEGIES))
    hues = [looks[strategy].hue.light for strategy in STRATEGIES]
    order = list(STRATEGIES.values())
    kinds = alt.Color("strategy:N", title=None, sort=order, scale=alt.Scale(domain=order, range=hues))
    rows = alt.Y("network:N", title=None, sort=list(NETWORKS.values()), axis=alt.Axis(labelLimit=320))
    base = alt.Chart(alt.Data(values=measured())).encode(y=rows, yOffset=alt.YOffset("strategy:N", sort=order))
    axis = alt.X("times:Q", title="times faster than xfuser's Ring, which takes 1", scale=alt.Scale(domain=[0, 9]))
    figures = base.mark_text(align="left", dx=4).encode(x="times:Q", text=alt.Text("times:Q", format=".2f"))
    ring = alt.Chart(alt.Data(values=[{"times": 1}])).mark_rule(strokeDash=[3, 3]).encode(x="times:Q")
    return (
        (base.mark_bar().encode(x=axis, color=kinds) + figures + ring)
        .properties(
            width=460,
            height=alt.Step(13),
            background="#FFFFFF",
            padding={"left": 40, "right": 10, "top": 10, "bottom": 10},
        )
        .configure_legend(orient="top")
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
        .configure_view(stroke=None)
    )


def main() -> None:
    """Write the picture."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(chart().to_json())
    (DOCS / "images" / "speedups.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
