"""A real model over several ranks, against the same in one process, unmodified."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.hosts.transformers import jobs
from tests.support.ranks import RankPool
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.text_models import SMOLLM2, load_text_model, model_files
from tokenring_xdit.planning.placement import BLOCK

NEEDLE = "The secret password of the lighthouse is 'marmalade'."
QUESTION = "What is the secret password of the lighthouse?"
HAY = (Path(__file__).parents[3] / "LICENSE").read_text(encoding="utf-8")[:1800]
DEPTHS = (0.1, 0.6)
"""In the shard of the first rank, and of the second, whether there are two or three; the question is in the last."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        model_files(SMOLLM2)
    except ConfigurationError as error:
        pytest.skip(str(error))


def about_the_needle(depth: float) -> str:
    before, _, after = HAY[int(len(HAY) * depth) :].partition("\n")
    return f"{HAY[: int(len(HAY) * depth)]}{before}\n\n{NEEDLE}\n{after}\n\n{QUESTION}"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("world", "depths"), [(2, DEPTHS[1:]), *(pytest.param(n, DEPTHS, marks=pytest.mark.matrix) for n in (2, 3))]
)
@torch.no_grad()
def test_answers_a_needle_and_perplexity(ranks: RankPool, world: int, depths: tuple[float, ...]) -> None:
    tokenizer, model = load_text_model(SMOLLM2, "float32")
    prompts = []
    for depth in depths:
        messages = [{"role": "user", "content": about_the_needle(depth)}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompts.append(tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids)
    whole = [model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24) for ids in prompts]
    for ids, tokens in zip(prompts, whole, strict=True):
        assert "marmalade" in tokenizer.decode(tokens[0, ids.shape[1] :])
    wanted = perplexity(jobs.scores_of(model, prompts[0], torch.ones_like(prompts[0])))
    starts = [len(tokenizer(about_the_needle(depth).partition(NEEDLE)[0]).input_ids) for depth in depths]
    assert [start * world // prompts[0].shape[1] for start in starts] == [DEPTHS.index(depth) for depth in depths]
    for tokens, scores, held in ranks.run(world, jobs.smollm2, prompts, timeout=600):
        assert tokens == [each.tolist() for each in whole]
        assert f"{perplexity(torch.tensor(scores)):.5g}" == f"{wanted:.5g}"
        longest = max(each.shape[1] for each in whole)
        assert max(held) <= math.ceil(longest / world) + BLOCK


def perplexity(scores: torch.Tensor) -> float:
    return math.exp(-float(scores.double().mean()))
