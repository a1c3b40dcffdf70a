"""``torch.compile`` of the transformer: one graph, the same numbers, nothing compiled twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packaging.version import Version

from tests.hosts.xfuser import generation, jobs
from tests.hosts.xfuser.generation import Case
from tests.hosts.xfuser.matrix import PROMPTS
from tests.support.ranks import RankPool

CASES = [
    Case("flux-runner", tokenring=2, inputs={"height": 28, "width": 44, "text_tokens": 17}),
    pytest.param(Case("flux-runner", tokenring=2), marks=pytest.mark.matrix),
    pytest.param(
        Case("wan-t2v", tokenring=2, inputs={"height": 112, "width": 176, "frames": 1}), marks=pytest.mark.matrix
    ),
    pytest.param(
        Case("qwen-image", tokenring=2, inputs={"prompts": PROMPTS}, again={"prompts": PROMPTS[::-1]}),
        marks=pytest.mark.matrix,
    ),
]


@pytest.mark.skipif(Version(torch.__version__) < Version("2.9"), reason="torch 2.8 cannot trace xfuser's own USP")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_the_whole_graph_compiles_once(ranks: RankPool, case: Case) -> None:
    for compiled in ranks.run(2, generation.compiled, case, timeout=600):
        print(f"{case.family}: {compiled}")
        assert compiled.error <= 1e-5
        assert compiled.graphs_after_first == compiled.graphs_after_second > 0


IN_GRAPHS, OUTSIDE = "tokenring_xdit.ring_attn", "tokenring_xdit.ring_attn_outside_graphs"


@pytest.mark.skipif(Version(torch.__version__) < Version("2.9"), reason="torch 2.8 cannot trace xfuser's own USP")
@pytest.mark.parametrize(
    ("case", "operator", "why"),
    [
        (Case("flux-runner", tokenring=2), IN_GRAPHS, None),
        (
            Case("flux-runner", tokenring=2, inputs={"height": 28, "width": 44, "text_tokens": 17}),
            OUTSIDE,
            "which keys it leaves out is no argument of it",
        ),
        pytest.param(
            Case("flux-runner", tokenring=2, schedule="auto"),
            OUTSIDE,
            "schedule auto may still be choosing",
            marks=pytest.mark.matrix,
        ),
        pytest.param(Case("wan-t2v", tokenring=2), IN_GRAPHS, None, marks=pytest.mark.matrix),
    ],
    ids=["whole", "padded", "auto", "wan"],
)
@pytest.mark.parametrize("as_is", [True, pytest.param(False, marks=pytest.mark.matrix)], ids=["as-is", "inductor"])
def test_cuda_graphs_hold_attention_where_nothing_is_hidden_from_them(
    ranks: RankPool, case: Case, operator: str, why: str | None, as_is: bool
) -> None:
    """A graph replays what it captured: the keys that were hidden then, say."""
    (seen, said), (_, silent) = ranks.run(2, jobs.operators_of_attention, case, as_is, timeout=600)
    assert list(seen) == [operator]
    assert ("cudagraph_unsafe" in seen[operator]) == (operator == OUTSIDE)
    left_out = "torch.compile leaves attention out of CUDA graphs (those of reduce-overhead, if any), as "
    assert said == ([] if why is None else [left_out + why])
    assert not silent


@pytest.mark.cuda
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize(
    "case",
    [
        Case("flux-runner", tokenring=2, inputs={"steps": 5}, again={"prompts": ["a boat"]}),
        Case("wan-t2v", tokenring=2, inputs={"steps": 5}),
        Case("qwen-image", tokenring=2, inputs={"steps": 5, "prompts": PROMPTS}, again={"prompts": PROMPTS[::-1]}),
    ],
    ids=lambda case: case.family,
)
def test_gpus_may_replay_the_compiled_graph(gpu_ranks: RankPool, case: Case, mode: str | None) -> None:
    """The second generation hides other keys than the first, whose graphs it replays."""
    case = replace(case, dtype=torch.bfloat16, compile_mode=mode)
    for compiled in gpu_ranks.run(2, generation.compiled, case, timeout=600):
        print(f"{case.family}, {mode}: {compiled}")
        assert compiled.error <= 0.1
        assert compiled.graphs_after_first == compiled.graphs_after_second > 0
