"""``generate`` of all ranks: the first one runs transformers' own loop, the others compute what it decides.

So tokens are the same on all ranks by construction, whatever seeds, streamers and stopping criteria they have, and no
rank can end before another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.attention import guarded
from tokenring_xdit.compat.transformers import CACHE_NAMES, cache_name
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.agreement import describe, noting, said_by_all
from tokenring_xdit.hosts.transformers.cache import ShardedCache, refuse_foreign_cache
from tokenring_xdit.hosts.transformers.changes import refuse_changed
from tokenring_xdit.hosts.transformers.model import refuse_flat
from tokenring_xdit.hosts.transformers.parcels import error_from, plain_error, plain_result, result_from
from tokenring_xdit.hosts.transformers.session import STORY, Role, Session, compare
from tokenring_xdit.hosts.transformers.turns import generating

__all__ = ["replace_generate"]

_ONE_MODEL = "one model is sharded: leave it out (prompt_lookup_num_tokens speeds up without a second one)"
_TOKENS = "prompts of token ids are sharded: pass input_ids"
_REFUSED = {"assistant_model": _ONE_MODEL, "prompt_embeds": _TOKENS, "inputs_embeds": _TOKENS}
"""Arguments that bring a second model, or embeddings of a whole prompt, and why they are refused."""

_OWN = ("streamer", "stopping_criteria", "logits_processor", "prefix_allowed_tokens_fn", "custom_generate", "tokenizer")
"""Arguments that the first rank uses, and that need not be the same elsewhere."""


_BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods that serve several prompts from pages of keys."""

_EXIT, _CONFIG = "assistant_early_exit", "generation_config"

_SAME_KEYS = (None, "dynamic", "static", "sliding_window", "hybrid", "hybrid_chunked")
"""Caches that models come with, and that hold the same keys as a sharded one."""


class _Relay:
    """A streamer that gives to those of all ranks."""

    def __init__(self, session: Session, own: Any) -> None:
        self._session, self._own = session, own

    def put(self, value: Tensor) -> None:
        self._session.saying.append(value.cpu())
        if self._own is not None:
            self._own.put(value)

    def end(self) -> None:
        if self._own is not None:
            self._own.end()


def replace_generate(model: Any, session: Session) -> None:
    """Let the first rank decide in ``generate``."""
    generate = model.generate
    prepare = model._prepare_cache_for_generation
    name = cache_name(type(model).forward)

    @wraps(prepare)
    def prepare_cache(generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        kind = generation_config.cache_implementation
        if kind == model.generation_config.cache_implementation:  # what the model came with, as Gemma 2 does
            generation_config.cache_implementation = None
        else:
            _refuse_cache(kind)
        if model_kwargs.get(name) is None and generation_config.use_cache is not False:
            model_kwargs[name] = session.new_cache()
            return None
        return prepare(generation_config, model_kwargs, *args, **kwargs)

    @wraps(generate)
    def together(*args: Any, **kwargs: Any) -> Any:
        with generating(session), guarded(None, "a call of generate"):
            call = {**dict(zip(list(signature(generate).parameters), args, strict=False)), **kwargs}
            _agree(model, session, call)
            session.forget_mask()
            session.computing = False
            try:
                if session.exchanges.rank == 0:
                    session.role = Role.LEADER
                    return _lead(session, generate, call)
                session.role = Role.FOLLOWER
                return _follow(session, call, model.device)
            finally:
                session.role, session.saying, session.computing = Role.ALIKE, [], False

    model._prepare_cache_for_generation = prepare_cache
    model.generate = together
    for each in _BATCHING:
        if hasattr(model, each):
            setattr(model, each, _refusing(each))


def _refuse_cache(kind: str | None) -> None:
    if kind not in (None, "dynamic"):
        raise UnsupportedError(
            f"cache_implementation={kind!r} keeps all keys on one rank: leave it out, or pass a cache of "
            "model.tokenring.cache()"
        )


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedError(
            f"{name} was called, whose pages of keys lie on one rank: call generate, with a batch padded on the left"
        )

    return refuse


def _agree(model: Any, session: Session, call: Mapping[str, Any]) -> None:
    """Refuse a call that is not computed, or was not given the same prompt on all ranks, on all of them."""
    with noting() as noted:
        _refuse(model, session, call)
    mine = {each: _described(value) for each, value in call.items() if each not in _OWN}
    mine |= session.standing
    mine[STORY] = next((value.story for value in call.values() if isinstance(value, ShardedCache)), "")
    streams = call.get("streamer") is not None
    everyone = said_by_all("the arguments of generate", noted.problem, mine, streams)
    compare([theirs for theirs, _ in everyone], "generate one text")
    session.streams = any(streams for *_, streams in everyone)


def _refuse(model: Any, session: Session, call: Mapping[str, Any]) -> None:
    with torch.no_grad():  # as generate itself
        refuse_changed(model, session.device)
    standing = model.generation_config.cache_implementation
    if standing not in _SAME_KEYS:
        _refuse_cache(standing)
    if call.get("cache_implementation") != standing:
        _refuse_cache(call.get("cache_implementation"))
    for name in CACHE_NAMES:
        refuse_foreign_cache(call.get(name))
    for name in ("inputs", "input_ids"):
        if call.get(name) is not None:
            refuse_flat(model, call[name])
    _refuse_other_shape(call)
    _refuse_blind(session, call.get("attention_mask"))
    for name, reason in _REFUSED.items():
        if call.get(name) is not None:
            raise UnsupportedError(f"{name} was passed to generate, and {reason}")
    if call.get("synced_gpus"):
        raise UnsupportedError(
            "synced_gpus=True was passed to generate, which lets ranks with prompts of their own wait for each other, "
            "and here all ranks generate one text, which ends on all of them at once: leave it out"
        )
    exits = [call.get(_EXIT), *(getattr(each, _EXIT, None) for each in (call.get(_CONFIG), model.generation_config))]
    if any(layer is not None for layer in exits):
        raise UnsupportedError(
            f"{_EXIT} was given to generate, which takes layers away from the model of one rank: leave it out, of "
            "generation_config and model.generation_config as well (prompt_lookup_num_tokens speeds up without)"
        )


def _refuse_other_shape(call: Mapping[str, Any]) -> None:
    """Refuse a mask that is not of the prompts, before positions are made of it."""
    ids = next((call[name] for name in ("inputs", "input_ids") if call.get(name) is not None), None)
    mask = call.get("attention_mask")
    if isinstance(mask, Tensor) and ids is not None and mask.ndim == 2 and mask.shape != ids.shape:
        raise UnsupportedError(
            f"attention_mask is of shape {tuple(mask.shape)}, and input_ids of {tuple(ids.shape)}: pass a mask of all "
            "tokens of the prompts, those in a cache included"
        )


def _refuse_blind(session: Session, mask: Any) -> None:
    """Refuse prompts whose last token sees padding only, itself among it: what follows would mean nothing."""
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.shape[1]:
        return
    window = min((each for each in session.windows if each is not None), default=mask.shape[1])
    blind = (mask[:, -window:] == 0).all(dim=1).nonzero()[:, 0].tolist()
    if blind:
        raise UnsupportedError(
            f"the last token of item {blind[0]} of the batch sees nothing but padding, and no answer follows from "
            "that: pad prompts on the left (tokenizer.padding_side = 'left'), each with at least one token"
        )


def _described(value: Any) -> str:
    """An argument in words that are the same where it is; by its kind where it cannot be put into words."""
    if isinstance(value, ShardedCache):
        return f"cache {value.number}"
    try:
        return str(value.to_json_string()) if hasattr(value, "to_json_string") else describe(value)
    except Exception:
        return f"a {type(value).__name__}"


def _lead(session: Session, generate: Any, call: dict[str, Any]) -> Any:
    """Run the loop; tell the others how it ended."""
    if session.streams:
        call["streamer"] = _Relay(session, call.get("streamer"))
    try:
        result = generate(**call)
        answer = plain_result(result)
    except Exception as error:
        if not session.computing:  # where a rank fails while all compute, the others hear of it by the guard
            session.tell("raise", plain_error(error), session.caches_made)
        raise
    kept = None
    if isinstance(result, Mapping):
        kept = next((result[each].number for each in CACHE_NAMES if result.get(each) is not None), None)
    session.tell("done", answer, kept, session.caches_made)
    return result


def _follow(session: Session, call: dict[str, Any], device: torch.device) -> Any:
    """Compute what the first rank decides, until it ends."""
    streamer = call.get("streamer")
    used: dict[int, ShardedCache] = {}
    while True:
        puts, what, content = session.listen()
        if streamer is not None:
            for value in puts:
                streamer.put(value)
        if what == "forward":
            cache = session.follow(session.heard(*content))
            if cache is not None:
                used[cache.number] = cache
        elif what == "done":
            if streamer is not None:
                streamer.end()
            result, kept, session.caches_made = content
            return result_from(result, used.get(kept), device)
        elif what == "raise":
            told_error, session.caches_made = content
            raise error_from(*told_error)
        else:
            cache = session.cache_numbered(content[0])
            used[cache.number] = cache
            cache.apply(what, content[1])
