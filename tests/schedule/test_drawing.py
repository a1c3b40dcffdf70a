"""A picture is read here as a program would: its elements and their ``data-`` attributes, sizes and places."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

from tests.schedule.test_builders import requests
from tests.support.schedules import OWN_MASKS
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import (
    Attend,
    Block,
    Exchange,
    Kind,
    Mask,
    Schedule,
    VerifiedSchedule,
    build,
    verify,
)
from tokenring_xdit.schedule.drawing import draw
from tokenring_xdit.schedule.drawing.chart import chart
from tokenring_xdit.schedule.drawing.links import busiest, groups
from tokenring_xdit.schedule.drawing.style import DARK, LIGHT, Colours

SVG = "{http://www.w3.org/2000/svg}"

WIDEST_CODE, WIDEST_TEXT = 0.61, 0.58
"""Width of a character in sizes of the font: of DejaVu Sans Mono and, on average over a line, of DejaVu Sans Bold."""


@dataclass(frozen=True)
class Rectangle:
    """In user units."""

    left: float
    top: float
    width: float
    height: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies inside."""
        return self.left <= x <= self.left + self.width and self.top <= y <= self.top + self.height

    def apart(self, other: Rectangle) -> bool:
        """Whether the two do not overlap, except by rounding."""
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
    """A line of text, as wide as it may become."""

    said: str
    left: float
    right: float
    line: float


class Picture:
    """A drawing, parsed."""

    def __init__(self, verified: VerifiedSchedule, *, animated: bool = False) -> None:
        self.root = ET.fromstring(draw(verified, animated=animated))

    def elements(self, tag: str, class_: str = "") -> Iterator[ET.Element]:
        """Elements of a tag, and of a class if one is named."""
        for element in self.root.iter(SVG + tag):
            if class_ in element.get("class", "").split() or not class_:
                yield element

    @cached_property
    def attends(self) -> list[dict[str, str]]:
        """Attributes of every attention."""
        return [dict(element.attrib) for element in self.root.iter() if "data-q" in element.attrib]

    @cached_property
    def transfers(self) -> list[dict[str, str]]:
        """Attributes of every transfer."""
        return [dict(element.attrib) for element in self.root.iter() if "data-block" in element.attrib]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        left, top, width, height = map(float, self.root.attrib["viewBox"].split())
        assert (left, top) == (0, 0)
        return width, height

    def texts(self) -> Iterator[Text]:
        """Every line of text."""
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


def whole(block: Block) -> str:
    """Its name without its pieces."""
    return str(block).partition("]")[0]


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
    """What came is attended and passed on in later steps, and outputs leave after what they are made of."""
    came: dict[tuple[str, str], list[tuple[int, Block]]] = defaultdict(list)
    blocks = {str(block): block for block in schedule.blocks()}
    for found in picture.transfers:
        block = blocks[found["data-block"]]
        came[found["data-destination"], whole(block)].append((int(found["data-step"]), block))

    def here(rank: str, block: Block, step: int) -> bool:
        own = block.owner == int(rank)
        return own or any(at < step and held.covers(block) for at, held in came[rank, whole(block)])

    made: dict[tuple[str, str], int] = {}
    for found in picture.attends:
        rank, step, q, kv = (
            found["data-rank"],
            int(found["data-step"]),
            *(blocks[found[n]] for n in ("data-q", "data-kv")),
        )
        assert here(rank, q, step)
        assert here(rank, kv, step)
        partial = str(Attend(q, kv).partial(int(rank)))
        made[rank, partial] = max(step, made.get((rank, partial), 0))
    for found in picture.transfers:
        block, source, step = blocks[found["data-block"]], found["data-source"], int(found["data-step"])
        assert made[source, str(block)] < step if block.kind is Kind.O else here(source, block, step)
    for rank, program in enumerate(schedule.programs):
        steps = {
            (f["data-q"], f["data-kv"]): int(f["data-step"]) for f in picture.attends if f["data-rank"] == str(rank)
        }
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
        if re.match(r"(Q|KV|O|\N{MULTIPLICATION SIGN} KV)\[", text.said):
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


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, pytest.param(16, marks=pytest.mark.e2e)])
@pytest.mark.parametrize(("name", "mask"), OWN_MASKS)
def test_every_schedule_is_drawn_whole(name: str, mask: Mask, world_size: int) -> None:
    check(build("hierarchical:nodes=1" if name == "hierarchical" and world_size % 2 else name, world_size, mask))


@settings(max_examples=25)
@given(requests(most=16))
def test_every_option_and_mask_is_drawn_whole(request_: tuple[str, int, Mask, int]) -> None:
    name, world_size, mask, heads = request_
    check(build(name, world_size, mask, heads))


def test_a_small_schedule_step_by_step() -> None:
    picture = Picture(build("token_ring", 3))
    attends = {(f["data-step"], f["data-rank"]): (f["data-q"], f["data-kv"]) for f in picture.attends}
    assert attends == {
        ("0", "0"): ("Q[0]", "KV[0]"),
        ("0", "1"): ("Q[1]", "KV[1]"),
        ("0", "2"): ("Q[2]", "KV[2]"),
        ("1", "0"): ("Q[2]", "KV[0]"),
        ("1", "1"): ("Q[0]", "KV[1]"),
        ("1", "2"): ("Q[1]", "KV[2]"),
        ("2", "0"): ("Q[1]", "KV[0]"),
        ("2", "1"): ("Q[2]", "KV[1]"),
        ("2", "2"): ("Q[0]", "KV[2]"),
    }
    of_rank_0 = [f for f in picture.transfers if "0" in (f["data-source"], f["data-destination"])]
    steps = {(f["data-source"], f["data-destination"], f["data-block"]): f["data-step"] for f in of_rank_0}
    assert steps == {
        ("0", "1", "Q[0]"): "0",
        ("2", "0", "Q[2]"): "0",
        ("0", "1", "Q[2]"): "1",
        ("2", "0", "Q[1]"): "1",
        ("0", "2", "O[2,0]"): "2",
        ("1", "0", "O[0,1]"): "2",
        ("0", "1", "O[1,0]"): "3",
        ("2", "0", "O[0,2]"): "3",
    }
    assert [text.said for text in picture.texts() if text.said.startswith(("step ", "finish"))] == [
        "step 0",
        "step 1",
        "step 2",
        "finish",
    ]


def test_under_a_causal_mask_ranks_stand_still() -> None:
    picture = Picture(build("ring", 3, Mask.CAUSAL))
    steps = sorted((f["data-rank"], f["data-step"], f["data-kv"]) for f in picture.attends)
    assert steps == [
        ("0", "0", "KV[0]"),
        ("1", "0", "KV[1]"),
        ("1", "1", "KV[0]"),
        ("2", "0", "KV[2]"),
        ("2", "1", "KV[1]"),
        ("2", "2", "KV[0]"),
    ]
    assert len(list(picture.elements("polygon"))) == 3 + 1  # three pairs of a rank's own blocks, and the legend


def places(picture: Picture, step: str, block: str) -> tuple[Rectangle, Rectangle]:
    """The frame of what travels in a step, and the part of it that is filled."""
    (element,) = (e for e in picture.elements("rect") if (e.get("data-step"), e.get("data-block")) == (step, block))
    filled = rectangle(element)
    middle = filled.left + filled.width / 2, filled.top + filled.height / 2
    (frame,) = (f for f in map(rectangle, picture.elements("rect", "frame")) if f.holds(*middle))
    return frame, filled


def test_pieces_fill_their_part_of_a_block() -> None:
    frame, filled = places(Picture(build("token_ring:chunks=4", 2)), "0", "Q[1] tokens 3/4")
    assert (filled.left - frame.left) / frame.width == pytest.approx(2 / 4, abs=0.01)
    assert (filled.width / frame.width, filled.height) == (pytest.approx(1 / 4, abs=0.01), frame.height)
    frame, filled = places(Picture(build("bidirectional", 3)), "0", "KV[1] heads 2/2")
    assert (filled.top - frame.top) / frame.height == pytest.approx(1 / 2, abs=0.01)
    assert (filled.height / frame.height, filled.width) == (pytest.approx(1 / 2, abs=0.01), frame.width)


def test_arrows_go_from_column_to_column() -> None:
    """Each is in the group of its label: a dot where it starts, a tip where it ends."""
    picture = Picture(build("direct", 5))
    centres = {}
    for text in picture.elements("text", "strong"):
        if text.text and text.text.startswith("rank "):
            centres[text.text.removeprefix("rank ")] = float(text.attrib["x"])
    seen = 0
    for group in picture.elements("g"):
        labels = [element for element in group if "data-source" in element.attrib]
        if not labels:
            continue
        (dot,) = (element for element in group if element.tag == f"{SVG}circle")
        (tip,) = (element for element in group if element.tag == f"{SVG}path" and "tip" in element.attrib["class"])
        end = float(re.split(r"[M,]", tip.attrib["d"])[1])
        assert float(dot.attrib["cx"]) == pytest.approx(centres[labels[0].attrib["data-source"]], abs=0.1)
        assert end == pytest.approx(centres[labels[0].attrib["data-destination"]], abs=2)
        seen += 1
    assert seen == 2 * 5 * 4


@pytest.mark.parametrize("ranks", [4, 6, 8])
def test_the_busiest_link_is_that_of_the_documentation(ranks: int) -> None:
    """The formulas of docs/schedules.md, for a full mesh of links."""
    formulas = {
        "ring": 2 * (ranks - 1),
        "bidirectional": ranks - 1,
        "direct_kv": 2,
        "token_ring": ranks,
        "bidirectional_q": Fraction(ranks + 1, 2),
        "direct": 2,
        "heads": Fraction(4, ranks),
        "mesh": 2 * (ranks // 2 - 1),  # all of these make two rows
        "hierarchical": max(ranks // 2, 2 * (2 - 1)),  # TokenRing inside, or between two nodes
    }
    assert {name: busiest(chart(build(name, ranks)).moves) for name in formulas} == formulas
    assert busiest(chart(build("near_far", ranks, Mask.CAUSAL)).moves) == 2


@pytest.mark.parametrize(
    ("name", "ranks", "sizes"),
    [
        ("mesh", 6, [2, 2, 2]),
        ("mesh:rows=4", 8, [4, 4]),
        ("mesh", 5, [5]),  # one row: a ring
        ("hierarchical", 8, [4, 4]),
        ("hierarchical:nodes=4", 8, [2, 2, 2, 2]),
        ("hierarchical:inside=direct_kv", 6, [3, 3]),
        ("token_ring", 4, [4]),
        ("direct", 1, [1]),
    ],
)
def test_nodes_and_columns_are_found_in_the_plan(name: str, ranks: int, sizes: list[int]) -> None:
    assert [len(group) for group in groups(chart(build(name, ranks)).moves, ranks)] == sizes


@pytest.mark.parametrize("name", ["token_ring", "direct:chunks=2", "hierarchical"])
def test_an_animated_picture_holds_the_same_and_plays_every_step(name: str) -> None:
    still, moving = (Picture(build(name, 4), animated=animated) for animated in (False, True))
    for found in moving.attends:
        assert found.pop("class") == f"step s{found['data-step']}"
    assert moving.attends == still.attends
    names = ("data-source", "data-destination", "data-channel", "data-block", "data-step")
    sent, same = (Counter(tuple(f[n] for n in names) for f in picture.transfers) for picture in (moving, still))
    assert sent == same
    steps = {found["data-step"] for found in [*moving.attends, *moving.transfers]}
    rules = moving.root.findtext(f"{SVG}style") or ""
    before, asked, played = rules.partition("@media screen and (prefers-reduced-motion: no-preference)")
    assert asked
    assert "opacity" not in before  # all steps are seen where nothing is played
    for step in steps:
        shown = [element for element in moving.root.iter() if f"s{step}" in element.get("class", "").split()]
        assert any(element.text for element in shown)  # its name
        assert f"animation-name: tokenring-schedule-s{step};" in played
    centres = {e.text: float(e.attrib["x"]) for e in moving.elements("text", "strong") if e.text}
    for route in moving.elements("g", "step"):
        for label in route.iterfind(f"{SVG}g"):
            (way,) = re.findall(
                rf"@keyframes tokenring-schedule-{label.attrib['class']} .*translateX\((.+?)px\)", played
            )
            moved = next(part for part in label if "data-source" in part.attrib)
            start, end = (centres[f"rank {moved.attrib[f'data-{of}']}"] for of in ("source", "destination"))
            assert (float(way) >= 0) == (end > start) or float(way) == 0
            assert abs(float(way)) < abs(end - start)


def test_names_are_text_and_nothing_else() -> None:
    odd = '<b onload="x">&amp;' * 5
    picture = Picture(verify(replace(build("ring", 2).schedule, name=odd)))
    assert picture.root.attrib["data-schedule"] == odd
    assert next(text for text in picture.texts()).said == odd
    everything_fits(picture)


def test_pictures_can_be_read_aloud() -> None:
    root = Picture(build("mesh", 4, Mask.CAUSAL)).root
    (title,), (description,) = root.findall(f"{SVG}title"), root.findall(f"{SVG}desc")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert title.text == "Schedule mesh, 4 ranks, causal mask"
    assert "each rank sends: " in (description.text or "")


def test_a_picture_has_room_for_sixteen_ranks() -> None:
    assert draw(build("ring", 16))
    with pytest.raises(ScheduleError, match=r"16 ranks, not for 17; 'tokenring-xdit schedule show ring --ranks 17'"):
        draw(build("ring", 17))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_colours_can_be_told_apart_from_what_is_behind_them(colours: Colours) -> None:
    assert len(set(colours.owners)) == 16
    for behind in (*colours.owners, colours.keys, colours.paper, colours.band):
        assert contrast(colours.ink, behind) >= 4.5
    for behind in (colours.paper, colours.band):
        assert contrast(colours.muted, behind) >= 4.5
        assert all(contrast(colour, behind) >= 3 for colour in colours.kinds.values())
