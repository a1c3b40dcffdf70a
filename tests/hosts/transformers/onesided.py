"""What the worker ranks run where one of them does something else than the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import GenerationConfig

from tests.hosts.transformers.jobs import error_of, parallel_model
from tests.hosts.transformers.models import language_model, prompts
from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.errors import TokenRingError


class Sayings(dict[str, str]):
    """What calls raise, by name."""

    def note(self, name: str, call: Callable[[], Any]) -> None:
        """Call something, and note what it raises."""
        try:
            call()
        except (TokenRingError, ValueError) as error:
            self[name] = f"{type(error).__name__}: {error}"


@torch.no_grad()
def refusals_of_one_rank() -> tuple[Sayings, float, list[int]]:
    """What is said where the last rank alone refuses a call; the error of the next call, and numbers of caches."""
    whole, model = language_model("llama"), parallel_model("llama")
    ids, mask = prompts(1, 40)
    odd = dist.get_rank() == dist.get_world_size() - 1
    said = Sayings()
    said.note("labels", lambda: model(ids, labels=ids if odd else None))
    said.note("rows", lambda: model(ids, logits_to_keep=torch.zeros(1, 1) if odd else 0))
    said.note("mask", lambda: model(ids, attention_mask=mask[:, odd:]))
    said.note("ids", lambda: model("a prompt" if odd else ids))
    said.note("decoder", lambda: model.get_decoder()(ids, output_attentions=odd))
    said.note("score", lambda: model.tokenring.score(ids[:, :1] if odd else ids))
    caches = [model.tokenring.cache().number]
    error = error_of(model(ids).logits, whole(ids).logits)
    return said, error, caches


@torch.no_grad()
def refusals_of_generate() -> tuple[Sayings, bool]:
    """What is said to arguments that would end in a wait or in half a model, and whether the model is whole after."""
    whole, model = language_model("llama"), parallel_model("llama")
    ids, _ = prompts(1, 40)
    odd = dist.get_rank() == dist.get_world_size() - 1
    early, said = GenerationConfig(max_new_tokens=3, assistant_early_exit=1), Sayings()
    said.note("synced", lambda: model.generate(ids, max_new_tokens=3, synced_gpus=True))
    said.note("synced, one", lambda: model.generate(ids, max_new_tokens=3, synced_gpus=odd))
    said.note("exit", lambda: model.generate(ids, max_new_tokens=3, assistant_early_exit=1))
    said.note("exit, given", lambda: model.generate(ids, generation_config=early))
    said.note(
        "exit, one", lambda: model.generate(ids, max_new_tokens=3, **({"generation_config": early} if odd else {}))
    )
    model.generation_config.assistant_early_exit = 1
    said.note("exit, model's", lambda: model.generate(ids, max_new_tokens=3))
    model.generation_config.assistant_early_exit = None
    found = model.generate(ids, max_new_tokens=3, synced_gpus=False)
    return said, torch.equal(found, whole.generate(ids, max_new_tokens=3))


@torch.no_grad()
def caches_after_a_failure() -> tuple[Sayings, bool, list[int]]:
    """Whether ``generate`` is right after one that failed before a token; numbers of caches made afterwards."""
    whole, model = language_model("llama"), parallel_model("llama")
    ids, _ = prompts(1, 40)
    said = Sayings()
    said.note("stop strings", lambda: model.generate(ids, max_new_tokens=2, stop_strings=["x"]))
    cache = model.tokenring.cache()
    found = model.generate(ids, max_new_tokens=2, **{cache_name(type(whole).forward): cache})
    return said, torch.equal(found, whole.generate(ids, max_new_tokens=2)), [cache.number]


@torch.no_grad()
def other_weights() -> tuple[Sayings, float]:
    """What is said where the last rank's weights were changed; the error once all ranks' were."""
    whole, model = language_model("llama"), parallel_model("llama")
    ids, _ = prompts(1, 40)
    odd = dist.get_rank() == dist.get_world_size() - 1
    said = Sayings()

    def change(model: Any) -> None:
        model.model.layers[0].mlp.down_proj.weight.mul_(3)

    model(ids)
    if odd:
        change(model)
    said.note("call", lambda: model(ids))
    said.note("score", lambda: model.tokenring.score(ids))
    said.note("generate", lambda: model.generate(ids, max_new_tokens=2))
    change(whole)
    if not odd:
        change(model)
    return said, error_of(model(ids).logits, whole(ids).logits)


@torch.no_grad()
def other_prefills() -> tuple[Sayings, bool]:
    """What is said where ranks want other things to travel, or nobody can plan it; and whether all is well after."""
    whole, ids = language_model("llama"), prompts(1, 40)[0]
    odd, said = dist.get_rank() == dist.get_world_size() - 1, Sayings()
    said.note("others", lambda: parallel_model("llama", prefill="keys" if odd else "queries"))
    said.note("unknown", lambda: parallel_model("llama", prefill="rings" if odd else "keys"))
    model = parallel_model("llama")
    model.tokenring.use("keys" if odd else "queries")
    said.note("call", lambda: model(ids))
    said.note("generate", lambda: model.generate(ids, max_new_tokens=3))
    model.tokenring.use("auto")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(TOPOLOGY_VARIABLE, "mesh:1:1gbit")
        said.note("unplanned call", lambda: model(ids))
        said.note("unplanned", lambda: model.generate(ids, max_new_tokens=3))
    found = model.generate(ids, max_new_tokens=3)
    return said, torch.equal(found, whole.generate(ids, max_new_tokens=3))


def gradients() -> tuple[str, float, bool]:
    """What ``backward`` says of logits; their error; and whether a weight has a gradient."""
    whole, model = language_model("llama"), parallel_model("llama")
    ids, _ = prompts(1, 40)
    logits = model(ids).logits
    said = ""
    try:
        logits.logsumexp(-1).sum().backward()
    except RuntimeError as error:
        said = str(error)
    error = error_of(logits, whole(ids).logits.detach())
    return said, error, any(parameter.grad is not None for parameter in model.parameters())
