"""What the report shows, before anybody draws it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import vl_convert

from tests.bench.report import samples
from tests.bench.report.samples import record
from tests.bench.report.wcag import contrast, linear
from tokenring_xdit.bench import Record, Status
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.bench.report.charts import POINTS, plot_of, plot_of_trace
from tokenring_xdit.bench.report.figures import Form, Part, figures
from tokenring_xdit.bench.report.links import links_of
from tokenring_xdit.bench.report.measures import bytes_unit, hidden, number, speed_up, time_unit
from tokenring_xdit.bench.report.page import page
from tokenring_xdit.bench.report.palette import BACKGROUNDS, styles
from tokenring_xdit.bench.report.problems import Axis, latest, views
from tokenring_xdit.bench.report.summary import summary
from tokenring_xdit.bench.report.symbols import SYMBOLS
from tokenring_xdit.bench.report.table import table
from tokenring_xdit.bench.report.theme import themes
from tokenring_xdit.bench.report.traces import TracePlot, boxes, kinds, read_traces, shares
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import ALGORITHMS, Activity, Span, Timeline


def nan(strategy: str = "ulysses") -> Record:
    spread = Spread(median=math.nan, lower=math.nan, upper=math.nan, rounds=(math.nan,))
    return record([1.0], strategy).model_copy(update={"seconds": spread, "max_error": math.nan})


# -- which records go together ------------------------------------------------------------------------


def test_settings_are_never_mixed() -> None:
    records = [
        record([1.0], tokens=tokens, network=network, heads=heads)
        for tokens in (64, 128)
        for network in ("none", "mesh:4:100mbit")
        for heads in (8, 16)
    ]
    found = views(records)
    assert len({view.setting for view in found}) == 4
    for view in found:
        assert len({(r.network, r.heads, r.head_dim, r.batch, r.dtype) for r in view.records}) == 1


def test_views_are_over_lengths_then_ranks_then_of_one_shape() -> None:
    found = views(samples.sweep((1024, 2048), (2, 4)))
    assert [(view.axis, view.ranks, view.tokens) for view in found] == [
        (Axis.TOKENS, 4, None),
        (Axis.TOKENS, 2, None),
        (Axis.RANKS, None, 2048),
        (Axis.RANKS, None, 1024),
        (Axis.SHAPE, 4, 2048),
        (Axis.SHAPE, 4, 1024),
        (Axis.SHAPE, 2, 2048),
        (Axis.SHAPE, 2, 1024),
    ]
    assert found[0].places == (1024, 2048)
    assert [view.axis for view in views(samples.sweep((1024,), (2,)))] == [Axis.SHAPE]


def test_shards_of_one_length_are_a_view_where_no_other_has_them() -> None:
    records = [*samples.sweep((2048,), (2,)), *samples.sweep((3072,), (3,)), *samples.sweep((4000,), (4,))]
    assert [(view.axis, view.ranks, view.tokens) for view in views(records)] == [
        (Axis.SHARDS, None, 1024),
        (Axis.SHAPE, 4, 4000),
        (Axis.SHAPE, 3, 3072),
        (Axis.SHAPE, 2, 2048),
    ]
    assert views(records)[0].places == (2, 3)
    assert str(views(records)[0]) == "over ranks, 1024 tokens on each"


def test_pipelines_and_machines_stand_apart() -> None:
    class Leveled(Record):
        level: str = "pipeline"
        model: str | None = "flux"

    pipeline = Leveled.model_validate({**record([1.0]).model_dump(), "level": "pipeline", "model": "flux"})
    assert [view.setting.level for view in views([record([1.0]), pipeline])] == ["attention", "pipeline"]
    other = record([1.0], machine={**samples.MACHINE, "cpu": "Another CPU"})
    assert [view.setting.machine for view in views([record([1.0]), other])] == [1, 2]
    assert len(latest([record([1.0]), other, pipeline])) == 3


def test_the_last_of_a_case_counts_and_that_is_said() -> None:
    records = [record(None, status=Status.FAILED, error="no"), record([2.0])]
    assert latest(records) == (records[1],)
    assert any("comes again later" in caution for caution in summary(records).cautions)


@pytest.mark.parametrize(
    "records",
    [[record(None, status=Status.REFUSED, error="no")], [nan()], [record([0.0])]],
    ids=["refused", "no numbers", "no time at all"],
)
def test_what_did_not_run_is_not_plotted(records: list[Record]) -> None:
    assert views(records) == ()
    assert summary(records).winners == ()
    assert len(table(records).rows) == len(records)


# -- figures of a record ------------------------------------------------------------------------------


def test_links_of_a_mesh_are_named_and_have_what_was_counted() -> None:
    links = ({"link0": {"sent": 5, "received": 7}, "link1": {"sent": 1, "received": 2}}, {"link0": {}}, {})
    found = links_of(record([1.0], network="mesh:3:100mbit", ranks=3, link_bytes=links))
    assert [(link.name, link.size) for link in found] == [
        ("h0 → h1", 5),
        ("h0 → h2", 1),
        ("h1 → h0", 7),
        ("h2 → h0", 2),
    ]
    assert {link.bits_per_second for link in found} == {10**8}


def test_links_of_a_star_have_both_directions_and_those_of_a_lost_network_their_interface() -> None:
    links = ({"link0": {"sent": 5, "received": 7}}, {"link1": {"sent": 1, "received": 2}})
    found = {
        link.name: link.size for link in links_of(record([1.0], network="star:2:1gbit", ranks=2, link_bytes=links))
    }
    assert sorted(found.values()) == [1, 2, 5, 7]
    assert all("h" in name and "→" in name for name in found)
    lost = links_of(record([1.0], network="lost.yaml", ranks=2, link_bytes=links))
    assert [(link.name, link.size, link.bits_per_second) for link in lost] == [
        ("0 link0", 5, None),
        ("1 link1", 1, None),
    ]


def test_hidden_is_the_time_of_the_busiest_link_that_nobody_waited_for() -> None:
    links = ({"link0": {"sent": 10**7, "received": 10}}, {"link0": {"sent": 10, "received": 10**7}})
    values: dict[str, Any] = {"network": "mesh:2:100mbit", "ranks": 2, "link_bytes": links}
    assert hidden(record([1.0], **values)).middle == pytest.approx(0.8 - 0.6)  # type: ignore[union-attr]
    assert hidden(record([5.0], **values)).middle == 0.0  # type: ignore[union-attr]
    early = record([1.0], **values).model_copy(update={"exposed_seconds": Spread.of([-0.1])})
    assert hidden(early).middle == pytest.approx(0.4)  # type: ignore[union-attr]  never more than was computed
    assert hidden(record([1.0])) is None


def test_speed_ups_set_quartile_against_quartile() -> None:
    found = speed_up(record([1.0, 2.0, 3.0]), record([4.0, 6.0, 8.0], "xfuser-ring"))
    assert found is not None
    assert (found.middle, found.lower, found.upper) == (3.0, pytest.approx(5.0 / 2.5), pytest.approx(7.0 / 1.5))
    assert speed_up(record([1.0]), None) is None
    assert speed_up(nan(), record([1.0])) is None


@pytest.mark.parametrize(
    ("value", "said"), [(1211.4, "1211"), (42.61, "42.6"), (0.0051234, "0.00512"), (0, "0"), (-3.14159, "-3.14")]
)
def test_numbers_have_three_digits_that_count(value: float, said: str) -> None:
    assert number(value) == said


def test_units_follow_the_largest_figure() -> None:
    assert time_unit([0.5, 9.0]).name == "ms"
    assert time_unit([10.1]).name == "s"
    assert time_unit([0.002]).name == "µs"
    assert bytes_unit([12_600_000]).name == "MB" and bytes_unit([]).name == "B"
    assert bytes_unit([2_570_000]).name == "MB"


def test_a_report_of_a_few_cases_is_small_and_has_its_verdict_as_headline() -> None:
    text = page([record([1.0] * 3), record([2.0] * 3, "xfuser-ring")], [trace(samples.timeline("token_ring"))])
    assert len(text) < 600_000
    assert "<h1>TokenRing was 2.00 times as fast as xfuser&#39;s Ring.</h1>" in text


def test_labels_of_logarithmic_axes_say_their_unit() -> None:
    (view, *_) = views(samples.sweep((1024, 2048), (2,)))
    time = next(figure for figure in figures(view) if figure.key == "time")
    assert time.logarithmic
    assert (
        f"\\u00a0{time.y_label}'" in json.dumps(plot_of(time, styles(view.strategies)).chart, ensure_ascii=True).lower()
    )


# -- plots --------------------------------------------------------------------------------------------


def test_figures_hold_the_records_figures() -> None:
    records = samples.sweep((1024, 2048, 4096), (2, 4))
    view = views(records)[0]
    found = {figure.key: figure for figure in figures(view)}
    assert list(found) == ["time", "speed-up", "communication", "busiest-link", "bytes-sent", "memory", "links"]
    scale = {"µs": 1e6, "ms": 1e3, "s": 1.0}[found["time"].y_label]
    for series in found["time"].series:
        for point in series.points:
            spread = next(
                r.seconds for r in records if (r.strategy, r.tokens, r.ranks) == (series.strategy, point.x, 4)
            )
            assert spread is not None
            assert point.value.middle == pytest.approx(spread.median * scale)
            assert point.value.lower == pytest.approx(spread.lower * scale)
    speeds = {series.strategy: series.points for series in found["speed-up"].series}
    assert all(point.value.middle == 1.0 for point in speeds["xfuser-ring"])
    assert [point.x for point in speeds["schedule:token_ring"]] == [1024, 2048]  # the last one of xfuser-ring failed


def test_parts_of_a_bar_add_up_to_the_call() -> None:
    (view,) = views(samples.sweep((4096,), (4,), ("schedule:ring", "schedule:direct", "schedule:token_ring", "x", "y")))
    communication = next(figure for figure in figures(view) if figure.key == "communication")
    assert communication.form is Form.BARS
    times = {r.strategy: r.seconds.median * 1e3 for r in view.records if r.seconds is not None}
    for name, time in times.items():
        parts = [series for series in communication.series if series.strategy == name]
        assert {series.part for series in parts} == {Part.COMPUTING, Part.HIDDEN, Part.EXPOSED}
        assert sum(series.points[0].value.middle for series in parts) == pytest.approx(time)


@pytest.mark.e2e
def test_vega_takes_every_plot_and_every_mark_knows_its_strategy() -> None:
    records = [
        *samples.sweep((1024, 2048), (2, 4)),
        record([1.0], "single"),
        record([2.0], "<script>alert(1)</script>"),
    ]
    traced = trace(samples.timeline("token_ring"))
    looks = styles([*(r.strategy for r in records), traced.strategy])
    drawn = [(plot_of(figure, looks), figure) for view in views(records) for figure in figures(view)]
    for plot, figure in drawn:
        points = [point for series in figure.series for point in series.points]
        assert len(plot.rows) == len(points) and {row["strategy"] for row in plot.rows} == set(plot.parameters["shown"])
        assert {row["said"] for row in plot.rows} == {number(point.value.middle) for point in points}
    spans = plot_of_trace(traced, 1.0, kinds([traced]), legend=False)
    assert len(spans.rows) == len(traced.timeline.spans) and spans.parameters["shown"] == [traced.strategy]
    plots = [*(plot for plot, _ in drawn), spans]
    assert "//" not in json.dumps([plot.whole() for plot in plots], allow_nan=False)  # no addresses
    light, dark = themes(looks, kinds([traced])).values()
    for number_of_chart, plot in enumerate({json.dumps(plot.chart): plot for plot in plots}.values()):
        whole = {**plot.whole(), "config": (light, dark)[number_of_chart % 2]}
        alt.LayerChart.from_dict(whole)  # Altair itself refuses what it does not know
        compiled = vl_convert.vegalite_to_vega(whole)
        assert any(mark["name"] == f"{POINTS}_marks" for mark in marks_in(compiled))


def marks_in(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All marks of a compiled chart."""
    for mark in group.get("marks", ()):
        yield mark
        yield from marks_in(mark)


def test_figures_of_one_kind_share_their_chart() -> None:
    records = samples.sweep((1024, 2048, 4096), (2, 4))
    looks = styles([r.strategy for r in records])
    drawn = [plot_of(figure, looks) for view in views(records) for figure in figures(view)]
    assert len({id(plot.chart) for plot in drawn}) < len(drawn) / 2


def test_what_is_not_above_zero_ends_at_the_foot_of_a_logarithmic_plot() -> None:
    records = [record([1.0, 1.1, 1.2], tokens=tokens) for tokens in (1024, 2048)]
    early = records[0].exposed_seconds
    assert early is not None
    records[0] = records[0].model_copy(update={"exposed_seconds": early.model_copy(update={"lower": -0.1})})
    (figure,) = (each for each in figures(views(records)[0]) if each.key == "communication")
    assert figure.logarithmic
    rows = plot_of(figure, styles(["schedule:token_ring"])).rows
    bounds = [row[name] for row in rows for name in ("value", "lower", "upper")]
    assert min(bounds) > 0 and "-100" in rows[0]["told"]  # what is drawn shorter is still said


# -- colours ------------------------------------------------------------------------------------------

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision Deficiency (2009), at 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
DISTINCT = ["token_ring", "ring", "direct", "bidirectional", "mesh", "hierarchical"]


def lab(colour: str, vision: Any) -> Any:
    """CIE L*a*b* of what somebody sees."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ np.clip(np.array(vision) @ linear(colour), 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart_by_everybody(theme: str) -> None:
    names = ["xfuser-ring", "ulysses", *(f"schedule:{name}" for name in DISTINCT)]
    looks = styles(names)
    hues = {name: getattr(looks[name].hue, theme) for name in names}
    background = BACKGROUNDS[theme == "dark"]
    assert all(contrast(hue, background) >= 3 for hue in hues.values())
    for vision in VISION.values():
        for one, other in combinations(hues.values(), 2):
            assert np.linalg.norm(lab(one, vision) - lab(other, vision)) >= 15


def test_a_strategy_looks_the_same_whatever_else_there_is() -> None:
    few = styles(["schedule:token_ring", "ulysses"])
    many = styles([*samples.SHARES, "single", "schedule:mesh", "somebody's own", "another"])
    assert few["schedule:token_ring"] == many["schedule:token_ring"]
    assert few["ulysses"] == many["ulysses"]
    assert [name for name, style in many.items() if style.prominent] == ["schedule:token_ring"]
    assert len({(style.hue, style.symbol, style.dash) for style in many.values()}) == len(many)
    variants = styles(["schedule:direct", "schedule:direct:chunks=2", "schedule:direct:chunks=4"])
    assert len({(style.symbol, style.dash) for style in variants.values()}) == 3


def test_every_schedule_has_a_look_of_its_own_that_can_be_drawn() -> None:
    looks = styles([f"schedule:{name}" for name in ALGORITHMS])
    assert len({(look.hue, look.symbol, look.dash) for look in looks.values()}) == len(ALGORITHMS)
    assert {look.symbol for look in looks.values()} <= set(SYMBOLS)
    for name, algorithm in ALGORITHMS.items():
        if algorithm.look is not None:
            drawn = looks[f"schedule:{name}"]
            assert (drawn.symbol, drawn.dash) == (algorithm.look.symbol, algorithm.look.dash)


# -- words --------------------------------------------------------------------------------------------


def test_the_summary_names_the_fastest_and_what_noise_allows() -> None:
    records = [
        record([4.0, 4.1, 4.2], "xfuser-ring"),
        record([2.0, 2.1, 2.2], "schedule:token_ring"),
        record([1.0, 1.5, 2.0], "schedule:direct"),
        record([1.2, 1.6, 1.8], "ulysses"),
        record([0.5, 0.5, 0.5], "single"),
    ]
    found = summary(records)
    (winner,) = found.winners
    assert (winner.strategy, winner.ties, winner.beaten_by_one) == ("schedule:direct", ("ulysses",), True)
    assert winner.speed_up == pytest.approx(4.1 / 1.5) and winner.token_ring == pytest.approx(4.1 / 2.1)
    assert found.sentences == (
        "TokenRing was 1.95 times as fast as xfuser's Ring.",
        "direct was the fastest, 2.73 times as fast as xfuser's Ring.",
        "One rank alone (single) was faster than all of them.",
    )
    assert any("their order is within noise" in caution for caution in found.cautions)


def test_a_busy_machine_and_a_slow_network_are_pointed_out() -> None:
    quiet, busy = record([1.0] * 3), record([1.0] * 3, load_at_start=3.2, network_share=0.91)
    assert summary([quiet]).cautions == ()
    assert [caution for caution in summary([busy]).cautions if "3.2" in caution or "91%" in caution] == [
        "Other programs ran on the machine: its load average was up to 3.2 before the start.",
        "The slowest link of the network reached 91% of its stated rate in the self-test.",
    ]


# -- the table ----------------------------------------------------------------------------------------


def test_the_table_has_every_case_with_its_reason_and_columns_that_differ() -> None:
    records = samples.sweep((1024, 2048), (2, 4))
    found = table(records)
    titles = [title for title, _ in found.columns]
    assert len(found.rows) == len(records)
    assert {"strategy", "ranks", "tokens", "status", "why not"} <= set(titles)
    assert "heads" not in titles and ("heads", "8") in found.common
    why = {row[titles.index("why not")].text for row in found.rows}
    assert why == {"", "ulysses shards heads, and 8 do not", "rank 1 was ended by signal 9"}
    milliseconds = titles.index("ms")
    for row, case in zip(found.rows, records, strict=True):
        order = row[milliseconds].order
        assert order == (None if case.seconds is None else pytest.approx(case.seconds.median * 1e3))


def test_the_table_says_what_auto_chose_and_does_not_repeat_what_a_strategy_says() -> None:
    auto = record([0.5], "schedule:auto", schedule="direct:chunks=4")
    found = table([record([1.0], schedule="token_ring"), auto])
    chosen = [title for title, _ in found.columns].index("chosen")
    assert [row[chosen].text for row in found.rows] == ["", "direct:chunks=4"]
    assert "chosen" not in [title for title, _ in table([record([1.0], schedule="token_ring")]).columns]


def test_fewer_queries_are_a_setting_of_their_own() -> None:
    several = views([record([1.0]), record([0.5], queries=512)])
    assert [view.setting.queries for view in several] == [0, 512]
    assert "512 queries" in str(several[1].setting)


# -- timelines ----------------------------------------------------------------------------------------


def trace(timeline: Timeline) -> TracePlot:
    setting = views([record([1.0])])[0].setting
    return TracePlot(setting, timeline.world_size, 4096, f"schedule:{timeline.name}", timeline)


def test_spans_of_a_rank_stay_in_its_lanes_and_do_not_cover_each_other() -> None:
    timeline = samples.timeline("token_ring")
    found = boxes(timeline)
    assert len(found) == len(timeline.spans)
    for box in found:
        assert box.span.rank <= box.top < box.bottom <= box.span.rank + 1
    for one, other in combinations(found, 2):
        apart = one.bottom <= other.top + 1e-9 or other.bottom <= one.top + 1e-9
        before = one.span.end <= other.span.start + 1e-6 or other.span.end <= one.span.start + 1e-6
        assert apart or before
    assert kinds([trace(timeline)]) == ("attend", "merge", "wait", "o", "q")


def test_many_transfers_at_once_still_fit_their_lane() -> None:
    spans = tuple(Span(0, Activity.SEND, 0.0, 1.0 + n, "Q[0]", "q", n + 1, 8) for n in range(40))
    found = boxes(Timeline("direct", 41, spans))
    assert len(found) == 40
    assert all(0 < box.top < box.bottom < 0.5 for box in found)


def test_shares_are_of_all_ranks_time() -> None:
    spans = (Span(0, Activity.ATTEND, 0.0, 2.0, "a"), Span(1, Activity.ATTEND, 0.0, 1.0, "a"))
    spans += (Span(1, Activity.WAIT, 1.0, 1.5, "Q"),)
    assert shares(Timeline("x", 2, spans)) == {Activity.ATTEND: 0.75, Activity.MERGE: 0.0, Activity.WAIT: 0.125}
    assert shares(Timeline("x", 1, ()))[Activity.ATTEND] == 0.0


def test_timelines_are_read_the_last_of_each_case(tmp_path: Path) -> None:
    path = tmp_path / "timelines.jsonl"
    assert read_traces(path) == ()
    timeline = samples.timeline("token_ring")
    samples.write(tmp_path, [], {"schedule:token_ring": timeline})
    path.write_text(2 * path.read_text())
    (found,) = read_traces(path)
    assert (found.strategy, found.ranks, found.tokens, found.timeline) == ("schedule:token_ring", 4, 4096, timeline)
    good = json.loads(path.read_text().splitlines()[0])
    for wrong in (
        "{",
        json.dumps({"strategy": "x"}),
        json.dumps(good | {"timeline": {**good["timeline"], "world_size": 1}}),
        json.dumps(good | {"heads": None}),
        "[]",
    ):
        path.write_text(wrong + "\n")
        with pytest.raises(ConfigurationError, match="line 1"):
            read_traces(path)
