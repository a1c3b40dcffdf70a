"""What the worker ranks run in the tests of language models; the reference is the unmodified model in one process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import tokenring_xdit
from tests.hosts.transformers.models import language_model, prompts
from tests.support.ranks import by_the_first
from tokenring_xdit.compat.transformers import CACHE_NAMES, cache_name
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts.changes import TOKEN_WISE
from tokenring_xdit.hosts.transformers import attention, exchanges, session
from tokenring_xdit.hosts.transformers.current import current_forward
from tokenring_xdit.hosts.transformers.session import Session
from tokenring_xdit.pipelines.text_models import SMOLLM2, load_text_model
from tokenring_xdit.planning.placement import BLOCK

CASES = {
    "one token": (1, 1, None),
    "shorter than the ranks": (1, 3, None),
    "prime": (1, 53, None),
    "prime batch": (2, 31, None),
    "left padding": (3, 41, [0, 7, 39]),
    "short and padded": (2, 5, [0, 3]),
}
"""Batch, length, and padding of each item."""

TURNS = (0, 29), (29, 30), (30, 51), (51, 53), (53, 67)
"""Tokens of one turn after the other."""


def parallel_model(kind: str, **options: Any) -> Any:
    """The same model, over all ranks of the job."""
    return tokenring_xdit.parallelize(language_model(kind), tokenring_degree=dist.get_world_size(), **options)


def error_of(found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """The largest difference, relative to the largest value, where tokens are real."""
    difference = (found - wanted).abs()
    if mask is not None:
        difference = difference[mask.bool()]
    return float(difference.max() / wanted.abs().max()) if difference.numel() else 0.0


@torch.no_grad()
def logits_errors(kind: str, prefill: str = "balanced") -> dict[str, float]:
    """The error of this rank's logits, of all its tokens, case by case; of whole calls and of turns as well."""
    parallel, expected = parallel_model(kind, prefill=prefill), by_the_first(lambda: _logits_alone(kind))
    errors = {}
    for name, (batch, length, padding) in CASES.items():
        ids, mask = prompts(batch, length, padding)
        given, wanted = mask if padding else None, expected[name]
        found, rows = parallel.tokenring.logits(ids, given)
        part = slice(rows.start, rows.stop)
        errors[name] = error_of(found, wanted[:, part], mask[:, part])
        errors[f"{name}, gathered"] = error_of(parallel(ids, attention_mask=given).logits, wanted, mask)
    ids, mask = prompts(2, 67, [0, 9])
    errors["score"] = error_of(parallel.tokenring.score(ids, mask)[mask[:, :-1] == 1], expected["score"])
    cache = parallel.tokenring.cache()
    for start, stop in TURNS:
        turn, seen, name = ids[:, start:stop], mask[:, :stop], f"turn {start}..{stop}"
        found, rows = parallel.tokenring.logits(turn, seen, cache)
        part = slice(rows.start, rows.stop)
        errors[name] = error_of(found, expected[name][:, part], seen[:, start:stop][:, part])
    return errors


def _logits_alone(kind: str) -> dict[str, torch.Tensor]:
    """What the unmodified model says: to whole calls, to turns, and how likely it finds a text."""
    whole, found = language_model(kind), {}
    for name, (batch, length, padding) in CASES.items():
        ids, mask = prompts(batch, length, padding)
        found[name] = whole(ids, attention_mask=mask if padding else None).logits
    ids, mask = prompts(2, 67, [0, 9])
    found["score"] = scores_of(whole, ids, mask)
    cache = DynamicCache(config=whole.config)
    for start, stop in TURNS:
        # Rotary tables that depend on the length differ between turns and one run, without ranks too.
        options = {"attention_mask": mask[:, :stop], cache_name(type(whole).forward): cache}
        found[f"turn {start}..{stop}"] = whole(ids[:, start:stop], **options).logits
    return found


def scores_of(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of tokens after real ones, in one process."""
    logits = model(ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return logits.gather(-1, ids[:, 1:, None])[..., 0][mask[:, :-1] == 1]


GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 64},
    "sampling": {"max_new_tokens": 16, "do_sample": True, "temperature": 1.5, "top_k": 20},
    "several": {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3},
    "beams": {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2},
    "chunks": {"max_new_tokens": 9, "prefill_chunk_size": 7},
    "look-up": {"max_new_tokens": 24, "prompt_lookup_num_tokens": 5, "eos_token_id": 1},
    "no cache": {"max_new_tokens": 5, "use_cache": False},
    "end": {"max_new_tokens": 40, "do_sample": True, "eos_token_id": list(range(3, 30))},
}
"""Options of ``generate``."""


@torch.no_grad()
def generations(kind: str, names: list[str], padding: list[int] | None = None) -> dict[str, tuple[bool, list[Any]]]:
    """Whether this rank generated what one process with the first rank's seed does, and the tokens, by name."""

    def generated(model: Any, name: str, seed: int) -> torch.Tensor:
        batch = 1 if name == "look-up" else 2
        ids, mask = prompts(batch, 43, padding and padding[:batch])
        torch.manual_seed(seed)
        tokens: torch.Tensor = model.generate(ids, attention_mask=mask, **GENERATIONS[name])
        return tokens

    def alone() -> dict[str, torch.Tensor]:
        whole = language_model(kind)
        return {name: generated(whole, name, 5) for name in names}

    parallel, expected, found = parallel_model(kind), by_the_first(alone), {}
    for name, wanted in expected.items():
        tokens = generated(parallel, name, 5 if dist.get_rank() == 0 else 100 + dist.get_rank())
        found[name] = torch.equal(tokens, wanted), tokens.tolist()
    return found


@torch.no_grad()
def chat(kind: str) -> tuple[bool, list[int], list[int]]:
    """Whether three turns on one cache say what one process says to the whole; keys held, and how many are allowed."""

    def talk(model: Any, **options: Any) -> torch.Tensor:
        said = torch.empty(1, 0, dtype=torch.long)
        for turn, length in enumerate((61, 2, 23)):
            said = model.generate(torch.cat([said, prompts(1, length, seed=turn)[0]], 1), max_new_tokens=11, **options)
        return said

    theirs, parallel = by_the_first(lambda: talk(language_model(kind))), parallel_model(kind)
    cache = parallel.tokenring.cache()
    said = talk(parallel, **{cache_name(type(parallel).forward): cache})
    allowed = -(-cache.length // dist.get_world_size()) + BLOCK
    return torch.equal(said, theirs), cache.held(), [allowed] * len(cache.layers)


@contextmanager
def fault(name: str, world: int) -> Iterator[None]:
    """Inside, something is computed wrongly on purpose."""
    plan, scores, share, attend = (
        attention.plan_pairs,
        attention.Scores,
        attention.share_of_keys,
        exchanges.attend_slice,
    )
    compute = Session.compute

    def with_local_positions(self: Session, decoder: Any, *args: Any) -> Any:
        def local(position_ids: torch.Tensor, **kwargs: Any) -> Any:
            return decoder(position_ids=torch.arange(position_ids.shape[1]).expand_as(position_ids), **kwargs)

        return compute(self, local, *args)

    wrong: dict[str, list[tuple[Any, str, Any]]] = {
        "no window": [
            (attention, "plan_pairs", lambda placement, queries, window, first: plan(placement, queries, None, first)),
            (attention, "Scores", lambda scale, window, softcap: scores(scale, None, softcap)),
        ],
        "a sink a shard": [(attention, "share_of_keys", lambda lse, sinks: share(lse - math.log(world), sinks))],
        "padding kept": [(session, "_valid", lambda mask, device: None)],
        "places of a shard": [(Session, "compute", with_local_positions)],
        "causal from the top left": [
            (exchanges, "attend_slice", lambda q, k, v, at, *more: attend(q, k, v, at - current_forward().past, *more)),
        ],
        "no cap": [(attention, "Scores", lambda scale, window, softcap: scores(scale, window, None))],
    }
    right = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in wrong[name]]
    for owner, attribute, value in wrong[name]:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in right:
            setattr(owner, attribute, value)


@torch.no_grad()
def errors_with_fault(kind: str, name: str) -> tuple[float, float]:
    """The error of two turns of a padded batch, as it should be and with a fault; all rows."""
    parallel = parallel_model(kind)
    ids, mask = prompts(2, 47, [0, 13])
    wanted = by_the_first(lambda: language_model(kind)(ids, attention_mask=mask).logits)

    def error() -> float:
        cache = {cache_name(type(parallel).forward): parallel.tokenring.cache()}
        first = parallel(ids[:, :29], attention_mask=mask[:, :29], **cache).logits
        second = parallel(ids[:, 29:], attention_mask=mask, **cache).logits
        return error_of(torch.cat([first, second], dim=1), wanted, mask)

    right = error()
    with fault(name, dist.get_world_size()):
        return right, error()


class LargeTensors(TorchDispatchMode):
    """Notes every tensor of numbers with a dimension as long as a sequence; flat memory has none."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.found: set[tuple[str, tuple[int, ...]]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.is_floating_point()
                and tensor.ndim > 1
                and self.length <= max(tensor.shape)
            ):
                self.found.add((str(function), tuple(tensor.shape)))
        return result


@torch.no_grad()
def large_tensors(kind: str, prefills: Sequence[str]) -> dict[tuple[str, bool], set[tuple[str, tuple[int, ...]]]]:
    """Tensors as long as the sequence that this rank makes while it generates, by what travels and whether padded."""
    found = {}
    for prefill, padded in product(prefills, (False, True)):
        parallel = parallel_model(kind, prefill=prefill)
        ids, mask = prompts(2, 211, [0, 30] if padded else None)
        with LargeTensors(200) as noted:
            parallel.generate(ids, attention_mask=mask, max_new_tokens=3)
        found[prefill, padded] = noted.found
    return found


@torch.no_grad()
def cache_errors(folder: str) -> dict[str, float]:
    """What comes after a cache was cropped, reordered, cut to some items, and saved and loaded."""
    whole, parallel = language_model("mistral"), parallel_model("mistral")
    name = cache_name(type(whole).forward)
    ids, _ = prompts(3, 71)
    errors = {}

    def after(what: str, change: Any, rows: list[int], length: int) -> None:
        cache = parallel.tokenring.cache()
        for start, stop in ((0, 50), (50, 51), (51, 60)):
            parallel(ids[:, start:stop], logits_to_keep=1, **{name: cache})
        cache = change(cache) or cache
        sequence = torch.cat([ids[rows, :length], ids[rows, 60:]], dim=1)
        found = parallel(ids[rows, 60:], **{name: cache}).logits
        errors[what] = error_of(found, by_the_first(lambda: whole(sequence).logits[:, length:]))

    everyone = [0, 1, 2]
    after("nothing", lambda cache: None, everyone, 60)
    after("crop", lambda cache: cache.crop(-13), everyone, 47)
    after("crop to", lambda cache: cache.crop(52), everyone, 52)
    after("reorder", lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0], 60)
    after("select", lambda cache: cache.batch_select_indices(torch.tensor([False, True, True])), [1, 2], 60)

    def saved(cache: Any) -> Any:
        cache.save(folder)
        return parallel.tokenring.cache().load(folder)

    after("load", saved, everyone, 60)
    cache = parallel.tokenring.cache()
    parallel(ids, **{name: cache})
    cache.crop(-71)
    found = parallel(ids[:1], **{name: cache}).logits  # fewer items than there were
    errors["crop all"] = error_of(found, by_the_first(lambda: whole(ids[:1]).logits))
    return errors


@torch.no_grad()
def errors_after_inference_mode(folder: str) -> dict[str, float]:
    """The errors of many tokens on caches that were filled, changed and loaded in inference mode."""
    errors = {}
    for kind, length in (("llama", 60), ("mistral", 400)):  # mistral's windows forget what is before them
        whole, parallel = language_model(kind), parallel_model(kind)
        name, (ids, _) = cache_name(type(whole).forward), prompts(2, length)
        for change in ("nothing", "select", "load"):
            cache, rows = parallel.tokenring.cache(), [0, 1]
            with torch.inference_mode():
                for start, stop in ((0, length - 20), (length - 20, length - 19)):
                    parallel(ids[:, start:stop], logits_to_keep=1, **{name: cache})
                if change == "select":
                    cache.batch_select_indices(torch.tensor([1, 0]))
                    rows = [1, 0]
                elif change == "load":
                    cache.save(folder)
                    cache = parallel.tokenring.cache().load(folder)
            at = range(length - 19, length)
            found = [parallel(ids[rows, n : n + 1], **{name: cache}).logits for n in at]
            wanted = by_the_first(lambda model=whole, ids=ids[rows]: model(ids).logits)
            errors[f"{kind}, {change}"] = error_of(torch.cat(found, 1), wanted[:, length - 19 :])
    return errors


class Noted(BaseStreamer):
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        """Keep a piece."""
        self.pieces.append(value.flatten().tolist())

    def end(self) -> None:
        """Note the end."""
        self.ended = True


@torch.no_grad()
def ways_of_generating() -> dict[str, Any]:
    """Streamers, criteria that differ between ranks, and what is returned beside tokens."""
    whole, parallel = language_model("qwen3"), parallel_model("qwen3")
    ids, _ = prompts(1, 21)
    rank = dist.get_rank()
    theirs, ours = Noted(), Noted()
    wanted = whole.generate(ids, max_new_tokens=6, streamer=theirs)
    options = {"max_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True}
    found = parallel.generate(ids, streamer=ours, **options)
    logits = whole.generate(ids, **options).logits

    def stop(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((1,), tokens.shape[1] >= 24 or rank > 0)

    stopped = parallel.generate(ids, max_new_tokens=6, stopping_criteria=StoppingCriteriaList([stop]))
    lone = Noted()
    parallel.generate(ids, max_new_tokens=2, **({"streamer": lone} if rank == 0 else {}))
    parallel.generation_config.cache_implementation = "hybrid"  # as Gemma's models come
    hybrid = parallel.generate(ids, max_new_tokens=6)
    returned = next(value for key, value in found.items() if key in CACHE_NAMES)
    return {
        "tokens": torch.equal(found.sequences, wanted) and torch.equal(hybrid, wanted),
        "logits": max(error_of(ours_, theirs_) for ours_, theirs_ in zip(found.logits, logits, strict=True)),
        "streamed": ours.pieces[-len(theirs.pieces) + 1 :] == theirs.pieces[1:] and ours.ended,
        "stopped": stopped.shape[1],
        "lone": len(lone.pieces),
        "cached": returned.length,
    }


def refusals() -> dict[str, str]:
    """What is said to calls that would be computed wrongly."""
    parallel = parallel_model("qwen3")
    ids, mask = prompts(1, 9)
    rank = dist.get_rank()
    said = {}

    def note(name: str, call: Any) -> None:
        try:
            call()
        except (TokenRingError, ValueError) as error:
            said[name] = str(error)

    with torch.no_grad():
        note("labels", lambda: parallel(ids, labels=ids))
        note("attentions", lambda: parallel(ids, output_attentions=True))
        note("embeddings", lambda: parallel(inputs_embeds=torch.zeros(1, 4, 48)))
        note("their cache", lambda: parallel(ids, **{cache_name(parallel.forward): DynamicCache()}))
        note("packed", lambda: parallel(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1]])))
        note("mask", lambda: parallel(ids, attention_mask=torch.ones(1, 1, 9, 9)))
        note("short mask", lambda: parallel(ids, attention_mask=mask[:, 1:]))
        note("static cache", lambda: parallel.generate(ids, max_new_tokens=2, cache_implementation="static"))
        note("assistant", lambda: parallel.generate(ids, max_new_tokens=2, assistant_model=language_model("qwen3")))
        note("other tokens", lambda: parallel(ids + rank))
        note("other prompt", lambda: parallel.generate(ids + rank, max_new_tokens=2))
        note("other length", lambda: parallel.generate(ids, max_new_tokens=2 + rank))
        note("invalid", lambda: parallel.generate(ids, max_new_tokens=2, num_beams=2, streamer=Noted()))
        note("again", lambda: tokenring_xdit.parallelize(parallel, tokenring_degree=dist.get_world_size()))
        note("degree", lambda: tokenring_xdit.parallelize(language_model("qwen3"), tokenring_degree=7))
        note("prefill", lambda: parallel_model("qwen3", prefill="rings"))
        note("alone", lambda: _with_our_attention()(ids))
        mixed = language_model("qwen3", num_hidden_layers=1, layer_types=["full_attention"])
        mixed.config.layer_types = ["linear_attention"]
        note("linear", lambda: tokenring_xdit.parallelize(mixed, tokenring_degree=dist.get_world_size()))
        note("unknown", lambda: tokenring_xdit.parallelize(_unknown(), tokenring_degree=dist.get_world_size()))
        parallel.train()
        with torch.enable_grad():
            note("training", lambda: parallel(ids))
        parallel.eval()
        said["still works"] = str(parallel.generate(ids, max_new_tokens=2).shape[1])
    return said


def _with_our_attention() -> Any:
    model = language_model("qwen3")
    model.set_attn_implementation("tokenring")
    return model


def _unknown() -> Any:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def fails_on_the_way() -> str:
    """What a rank says when the last one fails in a later token."""
    parallel = parallel_model("qwen3")
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3 and dist.get_rank() == dist.get_world_size() - 1:
            raise RuntimeError("out of luck")

    setattr(fail, TOKEN_WISE, True)  # it looks at no token
    parallel.model.layers[1].register_forward_pre_hook(fail)
    try:
        parallel.generate(prompts(1, 21)[0], max_new_tokens=9)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@torch.no_grad()
def bf16_errors(kind: str) -> tuple[float, float]:
    """Errors of bf16 against fp32: one process, and all ranks."""
    ids, mask = prompts(2, 53, [0, 11])
    exact, single = by_the_first(
        lambda: (
            language_model(kind)(ids, attention_mask=mask).logits,
            language_model(kind).bfloat16()(ids, attention_mask=mask).logits.float(),
        )
    )
    model = tokenring_xdit.parallelize(language_model(kind).bfloat16(), tokenring_degree=dist.get_world_size())
    found = model(ids, attention_mask=mask).logits.float()
    model.generate(ids, attention_mask=mask, max_new_tokens=3)
    return error_of(single, exact, mask), error_of(found, exact, mask)


@torch.no_grad()
def smollm2(prompts: list[torch.Tensor]) -> tuple[list[Any], list[float], list[int]]:
    """What the real model answers to each prompt, how likely it finds the first, and the keys this rank holds."""
    _, model = load_text_model(SMOLLM2, "float32")
    parallel = tokenring_xdit.parallelize(model, tokenring_degree=dist.get_world_size())
    said, held = [], []
    for ids in prompts:
        cache = parallel.tokenring.cache()
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 24, cache_name(type(model).forward): cache}
        said.append(parallel.generate(ids, **options).tolist())
        held.append(max(cache.held()))
    return said, parallel.tokenring.score(prompts[0])[0].tolist(), held
