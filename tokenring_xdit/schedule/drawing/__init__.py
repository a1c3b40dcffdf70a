"""A schedule as a picture: a column for each rank, a row for each step, drawn from the plan itself."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.describe import heading, traffic
from tokenring_xdit.schedule.drawing.animation import animate
from tokenring_xdit.schedule.drawing.chart import chart
from tokenring_xdit.schedule.drawing.head import draw_head, draw_title, title_width
from tokenring_xdit.schedule.drawing.links import groups
from tokenring_xdit.schedule.drawing.shapes import add
from tokenring_xdit.schedule.drawing.sheet import LEAST_WIDTH, columns, draw_sheet
from tokenring_xdit.schedule.drawing.style import ROOT, stylesheet
from tokenring_xdit.schedule.verify import VerifiedSchedule

__all__ = ["draw"]

_MOST_RANKS = 16


def draw(verified: VerifiedSchedule, *, animated: bool = False) -> str:
    """Draw a schedule.

    Args:
        verified: A proved schedule of at most 16 ranks.
        animated: Highlight the steps one after the other and let blocks travel, without the legend. Where a viewer does
            not play animations, all steps are shown.

    Returns:
        An SVG file's text. Each attention and each transfer is one element, with what it is in ``data-`` attributes.

    Raises:
        ScheduleError: There are too many ranks for a picture.
    """
    schedule = verified.schedule
    if schedule.world_size > _MOST_RANKS:
        raise ScheduleError(
            f"a picture has room for {_MOST_RANKS} ranks, not for {schedule.world_size}; "
            f"'tokenring-xdit schedule show {schedule.name} --ranks {schedule.world_size}' says the same in words"
        )
    laid_out = chart(verified)
    grouped = groups(laid_out.moves, schedule.world_size)
    place = columns(laid_out, grouped, title_width(schedule) if animated else LEAST_WIDTH)

    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": ROOT, "role": "img"})
    root.attrib |= {
        "data-schedule": schedule.name,
        "data-ranks": str(schedule.world_size),
        "data-mask": schedule.mask.value,
        "aria-labelledby": f"{ROOT}-title {ROOT}-desc",
    }
    add(root, "title", id=f"{ROOT}-title").text = f"Schedule {schedule.name}, {heading(schedule)}"
    add(root, "desc", id=f"{ROOT}-desc").text = (
        "A column for each rank and a row for each step: which queries each rank attends to which keys, and what "
        f"travels between ranks meanwhile. In all, {traffic(schedule)}."
    )
    add(root, "style").text = stylesheet(schedule.world_size)
    paper = add(root, "rect", x=0.5, y=0.5, width=place.width - 1, class_="paper", rx=8)
    if animated:
        root.set("data-animated", "true")
        top = draw_title(root, schedule, place.width)
    else:
        top = draw_head(root, schedule, laid_out, grouped, place.width)
    height = draw_sheet(root, laid_out, place, top) + 16
    if animated:
        animate(root, laid_out, place)
    paper.set("height", f"{height - 1:g}")
    root.attrib |= {
        "viewBox": f"0 0 {place.width:g} {height:g}",
        "width": f"{place.width:g}",
        "height": f"{height:g}",
    }
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"
