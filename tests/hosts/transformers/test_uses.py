"""What people do with a language model that was spread: as in one process, or refused in a sentence on all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.transformers import uses
from tests.hosts.transformers.models import KINDS
from tests.support.ranks import RankPool


@pytest.mark.parametrize(
    ("kind", "world"),
    [
        ("llama", 2),
        pytest.param("gpt-oss", 3, marks=pytest.mark.matrix),
        *(pytest.param(kind, 2 + at % 2, marks=pytest.mark.matrix) for at, kind in enumerate(KINDS) if kind != "llama"),
    ],
)
def test_every_use_is_that_of_one_process(ranks: RankPool, kind: str, world: int) -> None:
    assert ranks.run(world, uses.uses, kind, timeout=300) == [{}] * world


def test_what_would_be_wrong_or_wait_is_refused(ranks: RankPool) -> None:
    expected = {
        "second inside": "another parallel model is called inside generate of a parallel model",
        "second generates inside": "generate is called inside generate",
        "generate inside": "generate is called inside generate",
        "score inside": "tokenring.score is called inside generate",
        "logits inside": "tokenring.logits is called inside generate",
        "use inside": "tokenring.use is called inside generate",
        "streamer": "another parallel model is called inside generate",
        "paged": "cache_implementation='paged' keeps all keys on one rank",
        "quantized": "cache_implementation='quantized' keeps all keys on one rank",
        "batching": "generate_batch was called, whose pages of keys lie on one rank",
        "static cache": "a StaticCache was passed, whose keys lie on one rank",
        "word for a cache": "a str was passed, whose keys lie on one rank",
        "standing offloaded": "cache_implementation='offloaded' keeps all keys on one rank",
        "list": "takes at least one of input_ids, as a tensor of two dimensions",
        "no token": "takes at least one of input_ids",
        "nothing but padding": "the last token of item 0 of the batch sees nothing but padding",
        "padding behind": "pad prompts on the left",
        "hidden states": "output_hidden_states was passed",
        "contrastive": "",
        "constraints": "",
        "groups": "",
        "custom": "custom_generate returned a str",
        "unknown token": "and this model knows those from 0 to 96",
        "flat": "as a tensor of two dimensions, [B, T]",
        "batch of a cache": "the cache is of 1 items, and input_ids of 2",
        "other order": "crop, reorder, select and load caches alike everywhere",
        "other order, generate": "the digest of what the cache was given, and of how it was changed, is",
        "copy": "a parallel model was copied",
        "pickle": "write it with model.save_pretrained",
        "pickled cache": "with cache.save(folder)",
        "fewer positions": "position_ids are of shape (1, 30), and input_ids of (1, 37)",
        "positions of others": "position_ids are of shape (2, 37), and input_ids of (1, 37)",
        "no item": "takes at least one of input_ids",
        "no numbers": "[B, T], of int64",
        "attention": "was set to 'sdpa' after parallelize",
        "attention, call": "was set to 'sdpa' after parallelize",
        "autocast": "was called inside torch.autocast",
        "autocast, call": "call it outside of it, after model.to(torch.bfloat16)",
        "autocast, one": "rank 1 refuses: the LlamaForCausalLM was called inside torch.autocast",
        "mask of other tokens": "attention_mask is of shape (1, 30), and input_ids of (1, 37): pass a mask of all",
        "score of a list": "takes at least one of input_ids",
        "score of a row": "as a tensor of two dimensions",
        "strategy": "prefill is 'key'; it has to be auto, balanced, keys, queries or a schedule: there is no schedule",
        "no strategy": "prefill is None; it has to be auto",
        "tokenizer": "pass the language model itself",
        "pipeline": "was given a TextGenerationPipeline: pass the language model itself, pipe.model",
        "wrapped": "loaded: pass what is inside, the LlamaForCausalLM in .module",
        "None": "was given a NoneType, and takes a pipeline of diffusers",
        "embeddings": "inputs_embeds was passed to generate, and prompts of token ids are sharded",
        "hook": "a forward hook (_changed.<locals>.<lambda>) was put on model.layers.1 in the Qwen3ForCausalLM",
        "hook, generate": "put it on the whole model, or, where it looks at each token by itself",
        "replaced": "the forward of the Qwen3Attention of layer 1 was replaced",
        "attention, one": "rank 1 refuses: the attention of this Qwen3ForCausalLM was set to 'sdpa'",
        "cast between turns": "computed in torch.float32, and the model is in torch.float16 now: begin another cache",
        "cast between turns, generate": "begin another cache",
        "double afterwards": "this model is in torch.float64",
        "moved": "the Qwen3ForCausalLM was moved to meta after parallelize, which connected the ranks for cpu",
        "moved, generate": "call model.to(device) first, then parallelize",
        "checkpointing": "training mode with gradient checkpointing",
        "compiled": "this model was compiled",
        "layout": "layout='zigzag' was asked for",
        "decode": "decode='gather' was asked for",
        "double": "this model is in torch.float64",
        "dynamic": "which quantises activations, by the largest of a token or of all tokens of a call",
        "quantised": "this model has a FP8Linear",
    }
    first, second = ranks.run(2, uses.refusals)
    assert first == second
    said, same = first
    assert same
    assert {name: said.get(name) for name, text in expected.items() if text not in said.get(name, "")} == {}
    assert "nothing" not in said.values()


def test_adapters(ranks: RankPool) -> None:
    pytest.importorskip("peft")
    for found in ranks.run(2, uses.with_adapters):
        assert found.pop("prompt").startswith("this model has a learned prompt (peft)")
        assert found == {"before": "", "after": ""}


def test_however_a_model_was_loaded(ranks: RankPool, tmp_path: Path) -> None:
    uses.save_small_model(tmp_path)
    for found in ranks.run(2, uses.loaded, str(tmp_path)):
        assert "this model was loaded in parallel by transformers (tp_plan" in found.pop("in parallel")
        assert found == {}
