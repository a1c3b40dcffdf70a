"""``torch.compile`` of the transformer: one graph, the same numbers, nothing compiled twice."""

from __future__ import annotations

import pytest
import torch

from tests.integrations.xfuser import generation
from tests.integrations.xfuser.generation import Case
from tests.integrations.xfuser.matrix import PROMPTS
from tests.support.ranks import RankPool

CASES = [
    Case("flux-runner", tokenring=2, inputs={"height": 28, "width": 44, "text_tokens": 17}),
    pytest.param(Case("flux-runner", tokenring=2), marks=pytest.mark.matrix),
    Case("wan-t2v", tokenring=2, inputs={"height": 112, "width": 176, "frames": 1}),
    pytest.param(Case("qwen-image", tokenring=2, inputs={"prompts": PROMPTS}), marks=pytest.mark.matrix),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_the_whole_graph_compiles_once(ranks: RankPool, case: Case) -> None:
    for compiled in ranks.run(2, generation.compiled, case, timeout=600):
        print(f"{case.family}: {compiled}")
        assert compiled.error <= 1e-5
        assert compiled.graphs_after_first == compiled.graphs_after_second > 0


@pytest.mark.cuda
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_gpus_may_replay_the_compiled_graph(gpu_ranks: RankPool, mode: str | None) -> None:
    case = Case("wan-t2v", tokenring=2, dtype=torch.bfloat16, compile_mode=mode, inputs={"steps": 5})
    for compiled in gpu_ranks.run(2, generation.compiled, case, timeout=600):
        print(f"{mode}: {compiled}")
        assert compiled.error <= 0.1
        assert compiled.graphs_after_first == compiled.graphs_after_second > 0
