"""A picture is read here as a program would: its elements and their ``data-`` attributes, sizes and places."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.test_builders import requests
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import Attend, Exchange, Mask, Schedule, VerifiedSchedule, build, draw, verify
from tokenring_xdit.schedule.drawing.course import course
from tokenring_xdit.schedule.drawing.style import DARK, LIGHT, Colours
from tokenring_xdit.schedule.drawing.wires import busiest, groups

SVG = "{http://www.w3.org/2000/svg}"

WIDEST_CODE, WIDEST_TEXT = 0.61, 0.63
"""Width of a character in sizes of the font: of DejaVu Sans Mono and, on average over a line, of DejaVu Sans Bold."""


@dataclass(frozen=True)
class Rectangle:
    left: float
    top: float
    width: float
    height: float

    def holds(self, x: float, y: float, margin: float = 0.0) -> bool:
        return (
            self.left - margin <= x <= self.left + self.width + margin
            and self.top - margin <= y <= self.top + self.height + margin
        )

    def apart(self, other: Rectangle) -> bool:
        return (
            self.left + self.width <= other.left + 0.2
            or other.left + other.width <= self.left + 0.2
            or self.top + self.height <= other.top + 0.2
            or other.top + other.height <= self.top + 0.2
        )


def rectangle(element: ET.Element) -> Rectangle:
    return Rectangle(*(float(element.attrib[name]) for name in ("x", "y", "width", "height")))


@dataclass(frozen=True)
class Text:
    said: str
    left: float
    right: float
    line: float


class Picture:
    def __init__(self, verified: VerifiedSchedule) -> None:
        self.root = ET.fromstring(draw(verified))

    def elements(self, tag: str, class_: str = "") -> Iterator[ET.Element]:
        for element in self.root.iter(SVG + tag):
            if class_ in element.get("class", "").split() or not class_:
                yield element

    @cached_property
    def attends(self) -> list[dict[str, str]]:
        return [dict(element.attrib) for element in self.root.iter() if "data-q" in element.attrib]

    @cached_property
    def transfers(self) -> list[dict[str, str]]:
        return [dict(element.attrib) for element in self.root.iter() if "data-block" in element.attrib]

    @property
    def size(self) -> tuple[float, float]:
        left, top, width, height = map(float, self.root.attrib["viewBox"].split())
        assert (left, top) == (0, 0)
        return width, height

    def texts(self) -> Iterator[Text]:
        for element in self.elements("text"):
            classes, said = element.get("class", "").split(), element.text or ""
            width = len(said) * float(element.attrib["font-size"])
            width *= WIDEST_CODE if "code" in classes else WIDEST_TEXT
            x = float(element.attrib["x"]) - (width / 2 if "middle" in classes else 0)
            yield Text(said, x, x + width, float(element.attrib["y"]))


def attends_of(schedule: Schedule) -> Counter[tuple[str, ...]]:
    return Counter(
        (str(rank), str(a.q), str(a.kv), a.mask.value)
        for rank, program in enumerate(schedule.programs)
        for a in program
        if isinstance(a, Attend)
    )


def sends_of(schedule: Schedule) -> Counter[tuple[str, ...]]:
    return Counter(
        (str(rank), str(t.peer), a.channel.value, str(t.block))
        for rank, program in enumerate(schedule.programs)
        for a in program
        if isinstance(a, Exchange)
        for t in a.sends
    )


def check(verified: VerifiedSchedule) -> None:
    picture = Picture(verified)
    everything_is_there_once(picture, verified.schedule)
    nothing_is_used_before_it_came(picture, verified.schedule)
    everything_fits(picture)


def everything_is_there_once(picture: Picture, schedule: Schedule) -> None:
    names = ("data-rank", "data-q", "data-kv", "data-mask")
    assert Counter(tuple(found[name] for name in names) for found in picture.attends) == attends_of(schedule)
    names = ("data-source", "data-destination", "data-channel", "data-block")
    assert Counter(tuple(found[name] for name in names) for found in picture.transfers) == sends_of(schedule)


def nothing_is_used_before_it_came(picture: Picture, schedule: Schedule) -> None:
    """A block is attended, and passed on, in a later step than the one it travels in; outputs travel after they were."""
    came: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for found in picture.transfers:
        origin = re.sub(r"\].*", "]", found["data-block"])
        came.setdefault((found["data-destination"], origin), []).append((int(found["data-step"]), found["data-block"]))

    def here(rank: str, block: str, step: int) -> bool:
        origin = re.sub(r"\].*", "]", block)
        whole = any(at < step for at, held in came.get((rank, origin), ()) if held in {block, origin})
        if whole or origin in {f"Q[{rank}]", f"KV[{rank}]"}:
            return True
        return any(at < step for at, held in came[rank, origin] if held != block)  # a piece of a larger piece

    for found in picture.attends:
        assert here(found["data-rank"], found["data-q"], int(found["data-step"]))
        assert here(found["data-rank"], found["data-kv"], int(found["data-step"]))
    attended = {(f["data-rank"], re.sub(r"\].*", "", f["data-q"])[2:]): int(f["data-step"]) for f in picture.attends}
    for found in picture.transfers:
        block, source, step = found["data-block"], found["data-source"], int(found["data-step"])
        if block.startswith("O"):
            owner = block[2 : block.index(",")]
            first = min(
                int(f["data-step"])
                for f in picture.attends
                if f["data-rank"] == source and f["data-q"].startswith(f"Q[{owner}]")
            )
            assert first < step
            assert (source, owner) in attended
        else:
            assert here(source, block, step)
    for rank, program in enumerate(schedule.programs):
        steps = {(f["data-q"], f["data-kv"]): int(f["data-step"]) for f in picture.attends if f["data-rank"] == str(rank)}
        order = [steps[str(a.q), str(a.kv)] for a in program if isinstance(a, Attend)]
        assert all(before < after for before, after in pairwise(order))


def everything_fits(picture: Picture) -> None:
    width, height = picture.size
    assert width >= 700
    paper = Rectangle(0, 0, width, height)
    frames = [rectangle(element) for element in picture.elements("rect", "frame")]
    for text in picture.texts():
        assert paper.holds(text.left, text.line)
        assert paper.holds(text.right, text.line)
        if re.match(r"(Q|KV|O|× KV)\[", text.said):
            (frame,) = (f for f in frames if f.holds((text.left + text.right) / 2, text.line))
            assert frame.holds(text.left, text.line), text
            assert frame.holds(text.right, text.line), text
    for element in picture.elements("rect"):
        box = rectangle(element)
        assert paper.holds(box.left, box.top)
        assert paper.holds(box.left + box.width, box.top + box.height)
    frames.sort(key=lambda frame: frame.top)
    for index, frame in enumerate(frames):
        for other in frames[index + 1 :]:
            if other.top > frame.top + frame.height:
                break
            assert frame.apart(other)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize(
    "name",
    [
        "bidirectional",
        "bidirectional_q",
        "direct",
        "direct:chunks=2",
        "direct_kv",
        "hierarchical:nodes=1",
        "mesh",
        "mesh:chunks=2",
        "ring",
        "token_ring",
    ],
)
def test_every_schedule_is_drawn_whole(name: str, world_size: int) -> None:
    check(build(name, world_size))


@settings(max_examples=25)
@given(requests(most=16), st.sampled_from(Mask))
def test_every_option_and_mask_is_drawn_whole(request_: tuple[str, int, int], mask: Mask) -> None:
    name, world_size, heads = request_
    check(build(name, world_size, mask, heads))
