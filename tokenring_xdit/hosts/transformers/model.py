"""The places of a transformers model that are replaced, on the model itself and on no class."""

from __future__ import annotations

from functools import wraps
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.transformers import CACHE_NAMES, cache_name
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers.cache import ShardedCache, refuse_foreign_cache
from tokenring_xdit.hosts.transformers.changes import refuse_changed
from tokenring_xdit.hosts.transformers.current import current_forward
from tokenring_xdit.hosts.transformers.rows import rows_to_keep
from tokenring_xdit.hosts.transformers.session import Inputs, Role, Session
from tokenring_xdit.hosts.transformers.turns import turn

__all__ = ["refuse_flat", "replace_decoder", "replace_head", "replace_rotary"]

_REFUSED = {
    "labels": "a loss over shards would leave out the tokens at their borders",
    "output_attentions": "no rank has all attention weights",
    "output_hidden_states": "no rank has the hidden states of all tokens",
    "output_router_logits": "no rank has the router logits of all tokens",
    "inputs_embeds": "embeddings of a whole prompt would have to be on every rank (pass input_ids)",
    "token_type_ids": "token types change the mask, which was not compared with one process",
}
"""Arguments of a model's call that are refused where they ask for something, and why."""


_OF_OTHERS = ("cache_position", "return_dict", "tokenizer")
"""What decoders are handed that says nothing to them: places of whole sequences, and what is for ``generate``."""


def replace_head(model: Any, session: Session) -> None:
    """Let a causal language model compute logits of the rows that were asked for."""
    forward = model.forward

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        with turn(session), session.settling():
            call = _named(forward, args, kwargs)
            _refuse(model, session, call)
            kept = call.pop("logits_to_keep", 0)
            refuse_flat(model, call.get("input_ids"))
            session.rows = rows_to_keep(0 if kept is None else kept, call["input_ids"].shape[1])
            try:
                with (
                    torch.no_grad()
                ):  # gradients would end at the head: backward is to fail, not to give a part of them
                    return forward(**call)
            finally:
                session.rows = None

    model.forward = called


def replace_decoder(model: Any, session: Session) -> None:
    """Let a decoder compute this rank's part of a sequence."""
    decoder = model.get_decoder()
    forward = decoder.forward
    name = cache_name(forward)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        if session.given is not None:
            return session.given
        with turn(session):
            return computed(*args, **kwargs)

    def computed(*args: Any, **kwargs: Any) -> Any:
        with session.settling():
            call = _named(forward, args, kwargs)
            _refuse(model, session, call)
            ids, mask = call.pop("input_ids", None), call.pop("attention_mask", None)
            positions, use_cache = call.pop("position_ids", None), call.pop("use_cache", None)
            for each in _OF_OTHERS:
                call.pop(each, None)
            given = [call.pop(each) for each in CACHE_NAMES if each in call]
            cache = next((each for each in given if each is not None), None)
            _refuse_unknown(model, call)
            _check(model, ids, mask, positions, cache)
            if cache is not None and cache.session is not session:
                raise UnsupportedError("this cache was made by another model: make one with model.tokenring.cache()")
            makes = cache is None and (use_cache if use_cache is not None else model.config.use_cache)
            past = 0 if cache is None else cache.length
            if mask is not None and mask.shape[1] != past + ids.shape[1]:
                raise UnsupportedError(
                    f"attention_mask has {mask.shape[1]} columns, and there are {past} cached and {ids.shape[1]} new "
                    "tokens: pass a mask of all of them"
                )
            if mask is not None and bool((mask != 0).all()):
                mask = None
            number = session.caches_made if makes else None if cache is None else cache.number
            heeds = session.gives_up is not None and session.role == Role.LEADER
            inputs = Inputs(ids, None if mask is None else mask != 0, positions, session.rows, number, past, heeds)
            session.settle(inputs)
        if makes:  # only now, as a refusal would leave ranks with different numbers of caches
            cache = session.new_cache()
        kept = session.new_cache(transient=True) if cache is None else cache
        output = session.compute(forward, inputs, kept, {**call, name: kept, "use_cache": True})
        output[name] = cache
        return output

    def follow(inputs: Inputs) -> ShardedCache | None:
        """Compute what the first rank told."""
        cache = None if inputs.cache is None else session.cache_numbered(inputs.cache)
        kept = session.new_cache(transient=True) if cache is None else cache
        session.compute(forward, inputs, kept, {name: kept, "use_cache": True})
        return cache

    decoder.forward = called
    session.follow = follow


def replace_rotary(model: Any) -> None:
    """Let rotary tables see the highest position of all ranks: some of them are chosen by it."""
    for module in model.get_decoder().modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            _with_last_position(module)


def _with_last_position(module: Any) -> None:
    forward = module.forward

    @wraps(forward)
    def called(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        last = current_forward().last_position.expand(position_ids.shape[0], 1)
        cos, sin = forward(x, torch.cat([position_ids, last], dim=1), *args, **kwargs)
        return cos[:, :-1], sin[:, :-1]

    module.forward = called


def _named(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    names = [p.name for p in signature(forward).parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _refuse(model: Any, session: Session, call: dict[str, Any]) -> None:
    for name, reason in _REFUSED.items():
        value = call.get(name)
        if value is not None and value is not False:
            raise UnsupportedError(
                f"{name} was passed to a {type(model).__name__} that is sharded over ranks, and {reason}: leave it out "
                "or call the model without parallelize"
            )
    for name in ("output_attentions", "output_hidden_states", "output_router_logits"):
        if call.get(name) is None and getattr(model.config, name, False):
            raise UnsupportedError(
                f"the configuration of this {type(model).__name__} says {name}=True, and {_REFUSED[name]}: set it to "
                "False"
            )
    if session.role == Role.ALIKE:  # in generate all ranks have looked before
        refuse_changed(model, session.device)


def _refuse_unknown(model: Any, call: dict[str, Any]) -> None:
    """Refuse what layers would be handed, on the rank that was given it only."""
    unknown = sorted(name for name, value in call.items() if value is not None and value is not False)
    if unknown:
        raise UnsupportedError(
            f"{', '.join(unknown)} was passed to a {type(model).__name__} that is sharded over ranks, which was not "
            "compared with one process: leave it out or call the model without parallelize"
        )


def _is_batch(ids: Any) -> bool:
    return isinstance(ids, Tensor) and ids.ndim == 2 and ids.dtype in (torch.int32, torch.int64)


def refuse_flat(model: Any, ids: Any) -> None:
    """Refuse token ids that are no batch of prompts.

    Raises:
        UnsupportedError: They are no tensor ``[B, T]``, or there is no token.
    """
    if not _is_batch(ids) or not ids.numel():
        raise UnsupportedError(
            f"a {type(model).__name__} that is sharded over ranks takes at least one of input_ids, as a tensor of two "
            "dimensions, [B, T], of int64"
        )


def _check(model: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> None:
    """Refuse what cannot be cut into the parts of ranks."""
    refuse_flat(model, ids)
    known = model.get_input_embeddings().num_embeddings
    if int(ids.min()) < 0 or int(ids.max()) >= known:
        raise UnsupportedError(
            f"input_ids has a token {int(ids.min()) if int(ids.min()) < 0 else int(ids.max())}, and this model knows "
            f"those from 0 to {known - 1}: use the tokenizer of this model"
        )
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise UnsupportedError(
            "attention_mask has to be of two dimensions, 1 where a token counts: masks of other forms were not "
            "compared with one process"
        )
    refuse_foreign_cache(cache)
    if cache is not None and cache.batch not in (None, ids.shape[0]):
        raise UnsupportedError(
            f"the cache is of {cache.batch} items, and input_ids of {ids.shape[0]}: pass as many, or repeat those of "
            "the cache with batch_repeat_interleave"
        )
    if cache is not None and cache.dtype not in (None, model.dtype):
        raise UnsupportedError(
            f"the keys of this cache were computed in {cache.dtype}, and the model is in {model.dtype} now: begin "
            "another cache"
        )
    if positions is not None and tuple(positions.shape) not in {tuple(ids.shape), (1, ids.shape[1])}:
        raise UnsupportedError(
            f"position_ids are of shape {tuple(positions.shape)}, and input_ids of {tuple(ids.shape)}: position_ids "
            "have to be of two dimensions, [B, T] or [1, T], of the new tokens"
        )
    if positions is not None and mask is None and bool((positions.diff(dim=1) != 1).any()):
        raise UnsupportedError(
            "position_ids that do not count on, without an attention_mask, mean several documents in one row, which "
            "see nothing of each other: pass them as items of a batch, padded on the left"
        )
