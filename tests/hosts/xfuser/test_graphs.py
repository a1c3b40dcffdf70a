"""Transformers' calls that are replayed: other prompts, sizes, adapters and weights, beside one process.

On processors operators are recorded and done again on the memory of the capture; on GPUs they are CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from tests.hosts.xfuser import graphs
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.graphs import Replayed
from tests.support.ranks import RankPool
from tokenring_xdit.attention.kernels import KERNELS
from tokenring_xdit.graphs import GraphReport
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.hosts.xfuser.backends import COUNTED
from tokenring_xdit.hosts.xfuser.dispatch import _why_read

TOLERANCE = 1e-5

PROMPTS: Sequence[Mapping[str, Any]] = [
    {},
    {"prompts": ["a boat at night"]},
    {"height": 48, "width": 64},
    {"prompts": ["a red fox"]},
]
"""Another prompt, another size, and the first size again."""

STEPS = {"steps": 4}


def counts(report: GraphReport) -> tuple[int, int, int]:
    return report.rehearsed, report.captured, report.replayed


def exact(found: Sequence[Replayed]) -> None:
    for rank in found:
        print(rank)
        assert max(rank.errors) <= TOLERANCE


@pytest.mark.parametrize(
    "case",
    [
        Case("flux", tokenring=2, inputs=STEPS),
        pytest.param(Case("flux", ulysses=2, inputs=STEPS), marks=pytest.mark.matrix),
        pytest.param(Case("sd3", tokenring=2, inputs=STEPS), marks=pytest.mark.matrix),
        pytest.param(Case("wan-t2v", tokenring=2, inputs=STEPS), marks=pytest.mark.matrix),
        pytest.param(Case("flux", tokenring=2, schedule="mesh:wide=2", inputs=STEPS), marks=pytest.mark.matrix),
    ],
    ids=lambda case: f"{case.family}-{case.ulysses}-{case.schedule}",
)
def test_replayed_pictures_are_those_of_one_process(ranks: RankPool, case: Case) -> None:
    found = ranks.run(2, graphs.generations, case, PROMPTS, timeout=300)
    exact(found)
    calls = 2 if case.family == "wan-t2v" else 1  # of a step: one for each side of guidance
    for rank in found:
        last = rank.reports[-1]["transformer"]
        assert not last.eager
        assert counts(last) == (2, 2, 4 * 4 * calls - 4)
        assert last.graphs == 2


def test_changed_adapters_and_weights_are_captured_anew(ranks: RankPool) -> None:
    found = ranks.run(2, graphs.generations_between_changes, Case("flux", tokenring=2, inputs=STEPS), timeout=300)
    exact(found)
    for rank in found:
        assert counts(rank.reports[-1]["transformer"]) == (5, 5, 10)
        assert rank.reports[-1]["transformer"].dropped == 4


def test_an_adapter_that_changes_in_a_callback(ranks: RankPool) -> None:
    case = Case("flux", tokenring=2, inputs={"steps": 8})
    found = ranks.run(2, graphs.with_change_in_a_callback, case, timeout=300)
    exact(found)
    for rank in found:
        assert counts(rank.reports[-1]["transformer"]) == (2, 2, 4)


LONG = "a red cube beside two blue balls on a wooden table"

MASKS: Sequence[Mapping[str, Any]] = [
    {"prompts": [LONG, "an old lighthouse at night"]},
    {"prompts": [LONG, "a fox"]},
    {"prompts": [LONG, "a boat at night"], "height": 48, "width": 64},
    {"prompts": [LONG, "a red fox in the snow"]},
]
"""Prompts of other lengths beside one that is as long as before, another size, and the first size again."""

WITHOUT_GUIDANCE = {**STEPS, "guidance_scale": 1.0}


@pytest.mark.parametrize(
    "case",
    [
        Case("qwen-image", tokenring=2, inputs=WITHOUT_GUIDANCE),
        pytest.param(Case("qwen-image", tokenring=2, ulysses=2, inputs=WITHOUT_GUIDANCE), marks=pytest.mark.matrix),
        pytest.param(
            Case("qwen-image", tokenring=3, schedule="direct:wide=3", inputs=WITHOUT_GUIDANCE), marks=pytest.mark.matrix
        ),
    ],
    ids=lambda case: f"{case.family}-{case.ulysses}-{case.schedule}",
)
def test_one_graph_serves_prompts_of_other_lengths(ranks: RankPool, case: Case) -> None:
    found = ranks.run(case.ranks, graphs.generations, case, MASKS, timeout=300)
    exact(found)
    for rank in found:
        last = rank.reports[-1]["transformer"]
        assert not last.eager
        assert counts(last) == (2, 2, 12)


HIDDEN: Sequence[Mapping[str, Any]] = [{}, {"shown": 4}, {"height": 48, "width": 64, "shown": 2}, {"shown": 7}]
"""Of Krea 2, which is given embeddings: masks that hide other tokens of the text."""

LUMINA: Sequence[Mapping[str, Any]] = [
    {"prompts": [LONG, "a fox"]},
    {"prompts": ["a fox", "an old lighthouse at night"]},
    {"prompts": [LONG, "a fox"], "height": 96, "width": 80},
    {"prompts": ["a fox", LONG]},
]

VIDEOS: Sequence[Mapping[str, Any]] = [
    {"prompts": ["a fox"]},
    {"prompts": [LONG]},
    {"prompts": ["a fox"], "height": 96, "width": 80},
    {"prompts": ["a boat at night"]},
]

MASKED_MODELS = [
    ("krea2", {"steps": 3, "text_tokens": 25}, HIDDEN, 2),
    ("lumina2", STEPS, LUMINA, 2),
    ("hunyuan-video", STEPS, VIDEOS, 1),
]
"""With what each is called, and how often in a step."""


@pytest.mark.parametrize(
    ("family", "inputs", "each", "calls"),
    [
        *(
            pytest.param(*model, marks=() if model[0] == "lumina2" else pytest.mark.matrix, id=model[0])
            for model in MASKED_MODELS
        ),
        # text that the ranks do not divide is on each of them
        pytest.param("hunyuan-video", {**STEPS, "text_tokens": 31}, VIDEOS, 1, marks=pytest.mark.matrix, id="joint"),
    ],
)
@pytest.mark.parametrize(
    ("ulysses", "tokenring", "schedule"),
    [
        (1, 2, "token_ring"),
        pytest.param(2, 2, "token_ring", marks=pytest.mark.matrix),
        pytest.param(1, 3, "direct:wide=3", marks=pytest.mark.matrix),
    ],
)
def test_one_graph_where_text_was_dropped_by_its_mask(
    ranks: RankPool,
    family: str,
    inputs: Mapping[str, Any],
    each: Sequence[Mapping[str, Any]],
    calls: int,
    ulysses: int,
    tokenring: int,
    schedule: str,
) -> None:
    case = Case(family, ulysses=ulysses, tokenring=tokenring, schedule=schedule, inputs=inputs)
    found = ranks.run(case.ranks, graphs.generations, case, each, timeout=500)
    exact(found)
    for rank in found:
        last = rank.reports[-1]["transformer"]
        assert not last.eager
        assert counts(last) == (2, 2, 4 * inputs["steps"] * calls - 4)


@pytest.mark.parametrize(
    ("family", "inputs", "each", "calls"),
    [
        ("qwen-image", WITHOUT_GUIDANCE, MASKS, 1),
        *(pytest.param(*model, marks=pytest.mark.matrix, id=model[0]) for model in MASKED_MODELS),
    ],
)
def test_masks_that_are_stale_show(
    ranks: RankPool, family: str, inputs: Mapping[str, Any], each: Sequence[Mapping[str, Any]], calls: int
) -> None:
    case = Case(family, tokenring=2, inputs=inputs)
    for rank in ranks.run(2, graphs.generations_with_stale_masks, case, [each[1], each[0]], timeout=300):
        print(rank)
        assert rank.errors[1] > 100 * TOLERANCE
        assert counts(rank.reports[-1]["transformer"]) == (1, 1, 2 * inputs["steps"] * calls - 2)


def test_masks_that_follow_from_shapes(ranks: RankPool) -> None:
    case = Case("z-image", tokenring=2, inputs=STEPS)
    found = ranks.run(2, graphs.generations, case, PROMPTS[:2], timeout=300)
    exact(found)
    for rank in found:
        last = rank.reports[-1]["transformer"]
        assert not last.eager
        assert (last.rehearsed, last.captured) == (2, 2)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            Case("krea2", tokenring=2, schedule="ring", inputs={"steps": 3}),
            "as schedule 'ring' sends keys",
        ),
        pytest.param(
            Case("lumina2", ulysses=2, inputs=STEPS), "lengths of texts, which shapes", marks=pytest.mark.matrix
        ),
        pytest.param(
            Case("krea2", ulysses=2, inputs=STEPS), "as Ulysses alone leaves them out", marks=pytest.mark.matrix
        ),
        pytest.param(
            Case("hunyuan-video", tokenring=2, schedule="mesh", inputs=STEPS),
            "as schedule 'mesh' sends keys",
            marks=pytest.mark.matrix,
        ),
        pytest.param(
            Case("qwen-image", ulysses=2, inputs={**WITHOUT_GUIDANCE, **MASKS[0]}),
            "as Ulysses alone leaves them out",
            marks=pytest.mark.matrix,
        ),
    ],
    ids=lambda value: value.family if isinstance(value, Case) else "",
)
def test_masks_of_prompts_run_as_they_are(ranks: RankPool, case: Case, reason: str) -> None:
    others = PROMPTS[:2] if case.family == "lumina2" else [{}, {}]
    found = ranks.run(2, graphs.generations, case, others, timeout=300)
    exact(found)
    for rank in found:
        report = rank.reports[-1]["transformer"]
        assert counts(report)[1:] == (0, 0)
        assert report.eager
        assert all(reason in said for said in report.eager)


@pytest.mark.matrix
@pytest.mark.parametrize("counted", [False, True])
def test_a_named_backend_under_masks(ranks: RankPool, counted: bool) -> None:
    """It runs as it is, with a line that says why, where no kernel of its kind is told how many keys count."""
    case = Case("qwen-image", tokenring=2, inputs=WITHOUT_GUIDANCE)
    if counted:
        found = ranks.run(2, graphs.generations_with_a_counted_backend, case, MASKS[:2], timeout=300)
    else:
        found = ranks.run(2, graphs.generations, case, MASKS[:2], AttentionBackend.SDPA_FLASH, timeout=300)
    exact(found)
    for rank in found:
        report = rank.reports[-1]["transformer"]
        assert counts(report) == ((1, 1, 6) if counted else (1, 0, 0))
        said = "attention backend SDPA_FLASH, which was asked for, does not read key counts on the device"
        assert all(said in why for why in report.eager)
        assert bool(report.eager) is not counted


KERNELS_OF = {
    "SDPA_FLASH": "flash",
    "SDPA_EFFICIENT": "efficient",
    "CUDNN": "cudnn",
    "FLASH": "flash_attn",
    "FLASH_3": "flash_3",
    "FLASH_4": "flash_4",
    "AITER": None,
}
"""xfuser's backends that return a log-sum-exp, each with our kernel that computes the same."""


@pytest.mark.parametrize("asked", KERNELS_OF)
def test_each_backend_that_can_is_told_which_keys_count(asked: str) -> None:
    assert {backend.name for backend in AttentionBackend} - {"AUTO"} <= set(KERNELS_OF)
    kernel = KERNELS_OF[asked]
    able = kernel is not None and KERNELS[kernel].counted is not None
    assert COUNTED.get(asked) == (kernel if able else None)
    q = torch.empty(1, 4, 8, 16, device="meta", dtype=torch.bfloat16)
    why = _why_read("token_ring", 2, q, q, asked, None)
    assert why is not None  # there is no GPU here
    if able:
        assert why.startswith(f"no kernel reads key counts on the device: attention kernel '{kernel}' ")
        assert "runs on cuda" in why
    else:
        assert why.startswith(f"attention backend {asked}, which was asked for, does not read key counts")
        assert "use SDPA_EFFICIENT or FLASH_4" in why


@pytest.mark.parametrize(
    "case",
    [
        Case("flux-runner", ring=2, inputs=STEPS),
        pytest.param(Case("flux-runner", ulysses=2, inputs=STEPS), marks=pytest.mark.matrix),
        pytest.param(Case("flux-runner", tokenring=2, inputs=STEPS), marks=pytest.mark.matrix),
    ],
    ids=lambda case: f"ring{case.ring}-ulysses{case.ulysses}-tokenring{case.tokenring}",
)
def test_xfusers_own_strategies_are_replayed_too(ranks: RankPool, case: Case) -> None:
    found = ranks.run(2, graphs.under_xfuser, case, timeout=300)
    exact(found)
    for rank in found:
        assert counts(rank.reports[-1]["transformer"]) == (1, 1, 6)


def test_what_cannot_be_is_refused(ranks: RankPool) -> None:
    if torch.cuda.is_available():
        pytest.skip("is about machines without a GPU")
    for said in ranks.run(2, graphs.refusals, timeout=300):
        assert said["no GPU"] == (
            "cuda_graphs=True needs a GPU with CUDA, and torch finds none on this machine: leave it out"
        )
        assert "not both" in said["compiled"]
        assert "cuda_graphs=True: use the same here" in said["another pipeline"]


@pytest.mark.cuda
@pytest.mark.parametrize(
    "case",
    [
        Case("flux", tokenring=2, inputs=STEPS, dtype=torch.bfloat16),
        Case("flux", ulysses=2, inputs=STEPS, dtype=torch.bfloat16),
        Case("sd3", tokenring=2, inputs=STEPS, dtype=torch.bfloat16),
        Case("wan-t2v", tokenring=2, inputs=STEPS, dtype=torch.bfloat16),
    ],
    ids=lambda case: f"{case.family}-{case.ulysses}",
)
def test_gpus_replay_cuda_graphs(gpu_ranks: RankPool, case: Case) -> None:
    """As far as the kernels of one GPU and those of two round alike: bf16."""
    for rank in gpu_ranks.run(2, graphs.generations, case, PROMPTS, timeout=600):
        print(rank)
        assert max(rank.errors) <= 0.1
        report = rank.reports[-1]["transformer"]
        assert not report.eager
        assert report.graphs == 2
        assert report.replayed >= 10
        assert report.memory_bytes > 0


@pytest.mark.cuda
def test_one_cuda_graph_serves_prompts_of_other_lengths(gpu_ranks: RankPool) -> None:
    case = Case("qwen-image", tokenring=2, inputs=WITHOUT_GUIDANCE, dtype=torch.bfloat16)
    for rank in gpu_ranks.run(2, graphs.generations, case, MASKS, timeout=600):
        print(rank)
        assert max(rank.errors) <= 0.1
        last = rank.reports[-1]["transformer"]
        assert not last.eager
        assert counts(last) == (2, 2, 12)


@pytest.mark.cuda
def test_gpus_capture_changed_adapters_anew(gpu_ranks: RankPool) -> None:
    case = Case("flux", tokenring=2, inputs=STEPS, dtype=torch.bfloat16)
    for rank in gpu_ranks.run(2, graphs.generations_between_changes, case, timeout=600):
        print(rank)
        assert max(rank.errors) <= 0.1
        assert rank.reports[-1]["transformer"].dropped == 4


@pytest.mark.cuda
@pytest.mark.parametrize("case", [Case("flux-runner", ring=2), Case("flux-runner", tokenring=2)])
def test_gpus_replay_xfusers_own_strategies_too(gpu_ranks: RankPool, case: Case) -> None:
    from dataclasses import replace

    case = replace(case, inputs=STEPS, dtype=torch.bfloat16)
    for rank in gpu_ranks.run(2, graphs.under_xfuser, case, timeout=600):
        print(rank)
        assert max(rank.errors) <= 0.1
        assert counts(rank.reports[-1]["transformer"]) == (1, 1, 6)
