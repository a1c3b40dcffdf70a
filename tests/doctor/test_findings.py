"""What figures mean, in words, and the page that shows them."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from tests.doctor.checkups import H100, checkup, machine, result
from tests.support.reference import softmax_attention
from tokenring_xdit.doctor.commands import CheckCall
from tokenring_xdit.doctor.exactness import graded
from tokenring_xdit.doctor.findings import findings, remarks_on_machine
from tokenring_xdit.doctor.machines import GpuFacts
from tokenring_xdit.doctor.page import page
from tokenring_xdit.doctor.record import Checkup, Grade, MessageTiming, PartOutcome, PartState
from tokenring_xdit.doctor.reference import difference, made, softmax64
from tokenring_xdit.schedule import ALGORITHMS
from tokenring_xdit.topology.smi import NO_PROGRAM

CALL = CheckCall("mesh", False, (8, 8), 4, 4, 64, 0, "float32")


def said(found: Checkup, grade: Grade) -> str:
    return "\n".join(finding.said for finding in findings(found) if finding.grade is grade)


def test_a_schedule_that_is_off_is_named_and_the_others_are_fine() -> None:
    found = checkup(exactness=(result("ring", 1e-7), result("mesh", 2e-7), result("mesh:wide=4", 3e-3)))
    wrong = said(found, Grade.WRONG)
    assert "Schedule 'mesh:wide=4' (causal, uneven shards, 8 heads, float32) is off by 3.0e-03" in wrong
    assert "1 of its 2 calls" in wrong
    assert "Exact on 4 ranks over gloo: ring; the largest error is 1.0e-07" in said(found, Grade.FINE)


def test_schedules_that_are_not_for_so_many_ranks_are_said() -> None:
    ended = PartOutcome(name="exactness", state=PartState.DONE)
    results = tuple(result(name, 1e-7) for name in ALGORITHMS if name != "hierarchical")
    assert said(checkup(parts=(ended,), exactness=results), Grade.NOTE) == "Not defined for 4 ranks: hierarchical."
    assert "Not defined" not in said(checkup(exactness=results), Grade.NOTE)


def test_a_rank_that_fails_is_named() -> None:
    found = checkup(exactness=(result("mesh", 9.0), result("mesh", None, "rank 2 was killed")))
    assert "failed: rank 2 was killed" in said(found, Grade.WRONG)


@pytest.mark.parametrize(
    ("answers", "exact", "error"),
    [
        ([1e-6, 2e-6], True, 2e-6),
        ([1e-6, 2e-5], False, 2e-5),
        ([math.inf, 1e-6], False, None),
        ([1e-6, "it is refused"], False, None),
    ],
)
def test_the_worst_rank_decides(answers: list[float | str], exact: bool, error: float | None) -> None:
    grade = graded(CALL, answers)
    assert (grade.exact, grade.error) == (exact, error)
    assert bool(grade.said) is (error is None)


def test_a_part_that_failed_is_wrong_and_one_left_out_is_not() -> None:
    parts = (
        PartOutcome(name="links", state=PartState.FAILED, said="rank 1 did not answer"),
        PartOutcome(name="step", state=PartState.SKIPPED, said="it was not asked for"),
    )
    found = checkup(parts=parts)
    assert said(found, Grade.WRONG) == "Part 'links' failed: rank 1 did not answer"
    assert "Part 'step', skipped: it was not asked for." in said(found, Grade.NOTE)


def notes(**facts: object) -> str:
    return "\n".join(f"{finding.grade.value}: {finding.said}" for finding in remarks_on_machine(machine(**facts)))


def test_what_a_machine_lacks_is_said_and_what_that_means() -> None:
    assert "No GPU: torch is a build without CUDA." in notes()
    assert "fine: Every GPU reaches the memory of every other one (P2P)." in notes(gpus=4)
    assert "note: No GPU reaches the memory of another (no P2P)" in notes(gpus=4, peers=False)
    assert "note: One GPU: ranks need one each" in notes(gpus=1)
    assert "P2P" not in notes(gpus=1)
    assert "note: flash-attn is not installed" in notes(gpus=2)
    old = GpuFacts(name="V100", memory_bytes=1 << 34, capability=(7, 0))
    assert "Compute capability 7.0" in notes(gpus=2, gpu=old)


@pytest.mark.parametrize(
    ("facts", "said", "advice"),
    [
        ({}, "No GPU: torch is a build without CUDA.", ""),
        ({"driver": "580.1"}, "No GPU: torch is a build without CUDA.", "There is a GPU driver: install a build of"),
        (
            {"cuda": "13.0", "smi_said": f"topology nvidia-smi: {NO_PROGRAM}", "cuda_said": "Found no NVIDIA driver"},
            "No GPU: torch sees none (Found no NVIDIA driver).",
            "",
        ),
        (
            {"cuda": "13.0", "driver": "470.1", "cuda_said": "The NVIDIA driver on your system is too old"},
            "No GPU: torch sees none (The NVIDIA driver on your system is too old).",
            "",
        ),
        (
            {"smi_said": "topology nvidia-smi: exit status 18: Driver/library mismatch"},
            "No GPU: torch is a build without CUDA.",
            "If it has GPUs, look at their driver. topology nvidia-smi: exit status 18: Driver/library mismatch",
        ),
    ],
)
def test_why_there_is_no_gpu_is_said(facts: dict[str, Any], said: str, advice: str) -> None:
    (found,) = (each for each in remarks_on_machine(machine(**facts)) if each.said.startswith("No GPU"))
    assert found.said.startswith(said)
    assert found.advice.startswith(advice)
    assert bool(found.advice) is bool(advice)


def test_parts_of_gpus_and_a_torch_without_nccl_are_said() -> None:
    part = H100.model_copy(update={"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb"})
    assert "note: NVIDIA H100 80GB HBM3 MIG 1g.10gb is a part of a GPU (MIG)" in notes(gpus=1, gpu=part)
    assert "wrong: This torch is built without NCCL" in notes(gpus=2, nccl=None)
    assert "NCCL" not in notes(gpus=2) + notes(gpus=1, nccl=None)


@pytest.mark.parametrize(
    ("version", "grade"), [("2.7.1", "wrong"), ("2.8.0a0+5228986", "note"), ("2.13.0+cu130", None), ("3.0.0", None)]
)
def test_old_torch_is_said(version: str, grade: str | None) -> None:
    lines = [line for line in notes(torch=version).splitlines() if "torch 2" in line]
    assert [line.partition(":")[0] for line in lines] == ([] if grade is None else [grade])


class _Reader(HTMLParser):
    """Looks whether elements are closed, and collects the text."""

    void = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_all_of_it_runs_nothing_and_takes_no_text_for_elements() -> None:
    found = checkup(
        machine=machine(gpus=2),
        exactness=(result("mesh", None, "rank 1 said <script>"),),
        messages=(MessageTiming(size=1 << 20, rate=2e10, both_ways=1e10),),
        latency=1e-5,
    )
    found = found.model_copy(update={"findings": findings(found)})
    reader = _Reader()
    reader.feed(page(found, "export TOKENRING_TOPOLOGY=/a", {"strategies": "strategies/report.html"}))
    assert not reader.open
    assert "script" not in reader.names
    for text in ("node<1>", "rank 1 said <script>", "1 MiB", "export TOKENRING_TOPOLOGY=/a", "NVIDIA H100", "wrong"):
        assert text in reader.text


def test_what_was_cut_short_is_not_called_fine() -> None:
    parts = (PartOutcome(name="exactness", state=PartState.CUT_SHORT, said="its time was up before: mesh"),)
    found = checkup(machine=machine(), exactness=(result("ring", 1e-7),), parts=parts)
    found = found.model_copy(update={"findings": findings(found)})
    assert "nothing is wrong, as far as it went" in page(found, None, {})
    assert "Exact as far as it was checked on 4 ranks over gloo: ring" in page(found, None, {})
    whole = checkup(machine=machine(), exactness=(result("ring", 1e-7),))
    whole = whole.model_copy(update={"findings": findings(whole)})
    assert "Exact on 4 ranks over gloo: ring" in page(whole, None, {})
    assert "nothing is wrong</h1>" in page(whole, None, {})


def test_a_table_of_errors_is_open_where_one_of_them_is_wrong() -> None:
    fine, wrong = (checkup(exactness=(result("ring", 1e-7), result("mesh", error))) for error in (1e-7, 1e-2))
    assert "<details><summary>All 2 calls of 2 kinds are exact</summary>" in page(fine, None, {})
    assert "<details>" not in page(wrong, None, {})


def test_a_checkup_is_read_as_it_was_written() -> None:
    found = checkup(machine=machine(gpus=2), exactness=(result("mesh", None, "why"), result("ring", 1e-7)))
    assert Checkup.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_agrees_with_that_of_the_tests(causal: bool) -> None:
    q, k, v = made(0, (1, 4, 8, 16), 3.0), made(1, (1, 2, 32, 16), 3.0), made(2, (1, 2, 32, 16), 1.0)
    visible = torch.arange(32) <= torch.arange(8, 16)[:, None] if causal else None
    expected, log_sum = softmax_attention(q, k, v, visible=visible)
    out, lse = softmax64(q, k, v, 8 if causal else None)
    assert difference(out, expected) < 1e-12
    assert difference(lse, log_sum) < 1e-12
    assert math.isnan(difference(torch.full_like(out, math.nan), expected))
