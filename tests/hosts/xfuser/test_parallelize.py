"""``parallelize``: a diffusers pipeline, called as always, against itself in one process."""

from __future__ import annotations

import pytest
import torch

from tests.hosts.xfuser import composition
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool

TOLERANCE = 1e-5

QUICK = {"flux", "sd3"}
"""A family whose transformer is exchanged, and one that xfuser puts a pipeline around."""


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.matrix) for f in FAMILIES if f != "flux-runner"]
)
def test_the_call_gives_every_rank_what_one_process_makes(ranks: RankPool, family: str) -> None:
    answers = ranks.run(2, composition.together, family, "EVERY_RANK", {"tokenring_degree": 2}, timeout=300)
    for answer in answers:
        assert answer.error is not None
        assert answer.error <= TOLERANCE
        assert "prompt is 'prompt 0' on rank 0 and 'prompt 1' on rank 1" in answer.refusal
        assert "made parallel before" in answer.again
    first, second = (answer.unseeded for answer in answers)
    assert first is not None
    assert torch.equal(first, second)


def test_the_first_rank_alone(ranks: RankPool) -> None:
    degrees = {"tokenring_degree": 2, "ulysses_degree": 2}
    first, *others = ranks.run(4, composition.together, "sd3", "FIRST_RANK", degrees, timeout=300)
    assert first.error <= TOLERANCE
    assert [other.error for other in others] == [None] * 3


def test_what_does_not_fit_is_refused(ranks: RankPool) -> None:
    for said in ranks.run(2, composition.refusals_of_parallelize, timeout=300):
        assert "3 ranks, and 2 were started" in said["degrees"]
        assert "tokenring_degree=2, ulysses_degree=1 was asked for in SanaPipeline" in said["pipeline"]
        assert "Call the pipeline without parallelize" in said["pipeline"]


@pytest.mark.parametrize("family", ["flux", "sd3", pytest.param("wan-t2v", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("host", ["xfuser", "diffusers"])
def test_weights_may_be_offloaded(ranks: RankPool, family: str, host: str) -> None:
    offloaded_weights_compute_the_same(ranks, family, host)


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        ("sd3", "aot_eager"),  # which runs graphs as they are; those that inductor makes are tried in test_compile.py
        *(pytest.param(family, "inductor", marks=pytest.mark.matrix) for family in ("sd3", "lumina2")),
    ],
)
def test_transformers_may_be_compiled_afterwards(ranks: RankPool, family: str, backend: str) -> None:
    """A graph that held what says which keys are real would say it too late."""
    assert max(ranks.run(2, composition.compiled_afterwards, family, backend, timeout=300)) <= TOLERANCE


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("auto", torch.float32),
        ("sdpa_efficient", torch.float32),
        ("sdpa_efficient", torch.bfloat16),
        ("sdpa_flash", torch.bfloat16),
        ("cudnn", torch.bfloat16),
    ],
)
def test_attention_backends_of_gpus(gpu_ranks: RankPool, backend: str, dtype: torch.dtype) -> None:
    for single, error in gpu_ranks.run(2, composition.with_backend, backend, dtype, timeout=300):
        print(backend, dtype, single, error)
        assert error <= (TOLERANCE if dtype == torch.float32 else 2 * single)


@pytest.mark.cuda
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_weights_may_be_offloaded_from_gpus(gpu_ranks: RankPool, family: str) -> None:
    offloaded_weights_compute_the_same(gpu_ranks, family, "xfuser")


def offloaded_weights_compute_the_same(ranks: RankPool, family: str, host: str) -> None:
    for errors in ranks.run(2, composition.offloaded, family, host, timeout=300):
        print(errors)
        assert len(errors) == 4
        assert max(errors.values()) <= TOLERANCE


def test_parts_on_several_devices_are_refused(ranks: RankPool) -> None:
    for said in ranks.run(2, composition.refusal_of_scattered, timeout=300):
        assert "parts of this pipeline lie on 0 and 1 (device_map)" in said
        assert "leave device_map out" in said


def test_arguments_that_xfusers_pipeline_drops_take_effect(ranks: RankPool) -> None:
    options = {"max_sequence_length": 16, "skip_guidance_layers": [0], "skip_layer_guidance_stop": 1.0}
    for error in ranks.run(2, composition.error_with_arguments, "sd3", options, timeout=300):
        assert error <= TOLERANCE


@pytest.mark.matrix
def test_short_text_beside_a_picture_is_refused(ranks: RankPool) -> None:
    for said in ranks.run(2, composition.refusal_of_arguments, "wan-i2v", {"max_sequence_length": 16}, timeout=300):
        assert "use max_sequence_length=512" in said
