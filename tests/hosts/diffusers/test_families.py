"""Each family that diffusers shards, against the unmodified pipeline in one process."""

from __future__ import annotations

import pytest

from tests.hosts.diffusers import jobs
from tests.hosts.diffusers.jobs import TWO_PROMPTS, Case
from tests.hosts.diffusers.page import Found, replaced
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool
from tests.support.small import ONLY_DIFFUSERS, TASKS, Small, small
from tokenring_xdit.hosts.diffusers.offer import compared

TOLERANCE = 1e-5

FEW = ["flux", "qwen-image", "wan-t2v", "sd3"]

OTHERS = [
    "flux-control",
    "flux2",
    "flux2-klein",
    "sd3.5-medium",
    "pixart-alpha",
    "pixart-sigma",
    "hunyuan-dit",
    "z-image",
    "lumina2",
    "cogvideox",
    "wan-a14b",
    "wan-i2v",
    "wan-ti2v",
    "hunyuan-video",
    "ltx2",
    "hunyuan-video-1.5",
    *ONLY_DIFFUSERS,
]

PROMPTS = {"prompts": TWO_PROMPTS}

PIXELS = {"hunyuan-dit": 16, "lumina2": 16, "cogvideox": 16, "hunyuan-video": 16, "hunyuan-video-1.5": 16}
"""Side of a token, where it is not four."""


def of_any_size(family: str) -> dict[str, object]:
    """Tokens and text tokens that three ranks do not divide, and two prompts of different length."""
    known = small(family)
    if isinstance(known, Small) and family in TASKS:
        sizes = of_any_size(known.family)
        if family == "sd3-controlnet":  # which takes multiples of two tokens
            sizes |= {"height": 40, "width": 56}
        return sizes if known.prompts else {key: value for key, value in sizes.items() if key != "prompts"}
    if family == "ltx":
        return {"height": 160, "width": 224, "frames": 9, "text_tokens": 31, **PROMPTS}
    if family == "ltx2":
        return {"height": 224, "width": 160, "frames": 17, **PROMPTS}
    if family == "cogview4":  # whose sizes are multiples of 16, of which a token is four
        return {"height": 80, "width": 112, "text_tokens": 49, **PROMPTS}
    if family == "mochi":
        return {"height": 112, "width": 80, "frames": 13, "text_tokens": 31, **PROMPTS}
    if family in {"skyreels-v2", "chronoedit"} or family.startswith("wan"):
        pixels = 32 if family == "wan-ti2v" else 16
        text = {} if family in {"wan-i2v", "chronoedit"} else {"text_tokens": 49}
        return {"height": 7 * pixels, "width": 5 * pixels, **text, **PROMPTS}
    pixels = PIXELS.get(family, 4)
    rows, columns = (10, 10) if family.startswith("pixart") else (7, 10)
    text = {} if family.startswith(("sd3", "hunyuan-dit")) else {"text_tokens": 49}
    return {"height": rows * pixels, "width": columns * pixels, **text, **PROMPTS}


def test_every_class_that_is_taken_was_compared() -> None:
    families = {name for name, family in FAMILIES.items() if family.runs in compared()}
    assert {*FEW, *OTHERS, "flux-runner"} == {*families, "hunyuan-video-1.5", *ONLY_DIFFUSERS}
    assert {small(key).runs for key in (*FEW, *OTHERS, *TASKS)} == set(compared())


def test_page_keeps_what_was_not_run() -> None:
    page = replaced("# Page\n\n", Found({"flux": 1e-7, "sd3": 2e-7}))
    assert "\n| flux | 1.0e-07 |\n| sd3 | 2.0e-07 |\n" in page
    assert replaced(page, Found()) == page
    again = replaced(page, Found({"z-image": 3e-6, "flux": 4e-7}))
    assert "\n3 pipelines on three ranks differ from one process by at most 3.0e-06 (fp32).\n" in again
    rows = "| --- | --- |\n| flux | 4.0e-07 |\n| sd3 | 2.0e-07 |\n| z-image | 3.0e-06 |\n"
    assert again.endswith(f"{rows}\n</details>\n")


@pytest.mark.smoke
def test_two_ranks_make_what_one_makes(ranks: RankPool) -> None:
    cases = [Case(family, calls=(PROMPTS,)) for family in FEW]
    for errors in ranks.run(2, jobs.all_of, cases, timeout=300):
        print(errors)
        assert max(errors.values()) <= TOLERANCE


def test_bf16(ranks: RankPool) -> None:
    """It rounds no more than twice as much as one process does."""
    for ratios in ranks.run(2, jobs.all_rounded, ["flux", "qwen-image", "wan-t2v"], timeout=300):
        print(ratios)
        assert max(ratios.values()) <= 2


def test_pictures_and_control(ranks: RankPool) -> None:
    """A task of each kind: residuals of a ControlNet, pictures behind the one that is made, of times of their own."""
    cases = [
        Case(task) for task in ("flux-controlnet", "flux-kontext", "qwen-image-edit-plus", "qwen-edit-2511", "wan-vace")
    ]
    for errors in ranks.run(2, jobs.all_of, cases, timeout=300):
        print(errors)
        assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize(
    "family", [*FEW, *(pytest.param(each, marks=pytest.mark.matrix) for each in (*OTHERS, *TASKS))]
)
def test_any_size_and_several_calls(ranks: RankPool, found: Found, family: str) -> None:
    """Three ranks, lengths that they do not divide, a mask that differs from item to item, then another size."""
    case = Case(family, calls=(of_any_size(family), {}, of_any_size(family)))
    error = max(ranks.run(3, jobs.worst, case, timeout=300))
    assert error <= TOLERANCE
    found.families[family] = error


@pytest.mark.parametrize("as_2_3", [False, True])
def test_ltx2_with_all_its_guidances(ranks: RankPool, as_2_3: bool) -> None:
    """One of them leaves attention out of a block; it is on where nothing is said."""
    case = Case("ltx2", make={"as_2_3": as_2_3}, calls=({"all_guidances": True},))
    for error in ranks.run(3, jobs.worst, case, timeout=300):
        assert error <= TOLERANCE


def test_one_time_for_all_tokens(ranks: RankPool) -> None:
    """LTX-Video has one where no frame is given, and one of each token where there is."""
    case = Case("ltx-condition", calls=({"without": ("conditions",)}, {}))
    for error in ranks.run(2, jobs.worst, case, timeout=300):
        assert error <= TOLERANCE


def test_a_picture_that_is_zero_is_none(ranks: RankPool) -> None:
    """HunyuanVideo 1.5 hides its tokens then: the same shapes, and another mask."""
    for error in ranks.run(2, jobs.with_and_without_a_picture, timeout=300):
        assert error <= TOLERANCE


@pytest.mark.parametrize(
    "schedule", ["auto", "heads", *(pytest.param(each, marks=pytest.mark.matrix) for each in ("direct", "ring"))]
)
def test_schedules(ranks: RankPool, schedule: str) -> None:
    for error in ranks.run(2, jobs.worst, Case("flux", schedule), timeout=300):
        assert error <= TOLERANCE


def test_fewer_tokens_than_ranks(ranks: RankPool) -> None:
    """One has no text then, and another number of heads than ranks."""
    case = Case("flux", make={"heads": 2}, calls=({"text_tokens": 2, "height": 8, "width": 8},))
    for error in ranks.run(3, jobs.worst, case, timeout=300):
        assert error <= TOLERANCE


@pytest.mark.parametrize(
    ("fault", "family"),
    [
        *(("dropped mask", "qwen-image"), ("wrong positions", "flux"), ("off by one", "sd3")),
        ("wrong residuals", "flux-controlnet"),
        *(
            pytest.param(fault, family, marks=pytest.mark.matrix)
            for fault, family in (
                *(("dropped mask", "hunyuan-video"), ("dropped mask", "chroma")),
                *(("wrong positions", "wan-t2v"), ("off by one", "flux")),
            )
        ),
    ],
)
def test_deliberate_faults_show(ranks: RankPool, fault: str, family: str) -> None:
    case = Case(family, calls=(of_any_size(family),))
    for error in ranks.run(3, jobs.worst, case, fault, timeout=300):
        print(fault, family, error)
        assert error > 100 * TOLERANCE
