"""Causal Wan over ranks, which xfuser 0.7.0 runs on one: the cache of keys is sharded, and only a chunk travels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.layout import key_layout
from tokenring_xdit.hosts.xfuser.choice import current_choice, tokenring_degree_of
from tokenring_xdit.hosts.xfuser.families.causal_wan.held import ChunkCall, HeldTokens
from tokenring_xdit.hosts.xfuser.family import PIPELINES, TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, replace_method, sequence_parallel_ranks

__all__ = ["HOOKS"]

_PLACES, _HELD, _TURN = "tokenring_places", "tokenring_held", "tokenring_turn"
"""What rides along in the cache of a layer: how many tokens it is to hold, what it holds, the call that is running."""


def compute_chunks_together(causal_wan: Any) -> None:
    """Have each rank compute its part of a chunk's tokens, and keep the keys of those.

    xfuser 0.7.0: ``xFuserCausalWanTransformer3DWrapper.forward`` knows no sequence parallelism.
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            encoder_hidden_states_image: Tensor | None = None,
            return_dict: bool = True,
            attention_kwargs: dict[str, Any] | None = None,
        ) -> Any:
            def call() -> Any:
                return original(
                    self,
                    hidden_states,
                    timestep,
                    encoder_hidden_states,
                    encoder_hidden_states_image,
                    return_dict,
                    attention_kwargs,
                )

            if not _spread():
                return call()
            caches = (attention_kwargs or {})["kv_cache"]
            turn = _begin(self, hidden_states, timestep, attention_kwargs or {})
            for cache in caches:
                cache[_TURN] = turn
            setattr(self, _TURN, turn)
            hooks = (
                self.blocks[0].register_forward_pre_hook(_enter(turn), with_kwargs=True),
                self.proj_out.register_forward_hook(_leave(turn)),
            )
            try:
                with key_layout(turn.layout):
                    return call()
            finally:
                for hook in hooks:
                    hook.remove()
                delattr(self, _TURN)
                for cache in caches:
                    del cache[_TURN]

        return forward

    replace_forward(causal_wan.xFuserCausalWanTransformer3DWrapper, make)


@outside_graphs
def _begin(model: Any, latents: Tensor, timestep: Tensor, told: dict[str, Any]) -> ChunkCall:
    """Refuse what was not compared, and say which keys the chunk sees."""
    from xfuser.core.distributed import get_ulysses_parallel_world_size

    if get_ulysses_parallel_world_size() > 1:
        raise UnsupportedError(
            "ulysses_degree was asked for together with tokenring_degree for causal Wan, whose cache is sharded by "
            "tokens and not by heads: use tokenring_degree alone"
        )
    if timestep.ndim > 1:
        raise UnsupportedError(
            "causal Wan was given a time for each token, which was not compared with one process over ranks: give one "
            "for each video, or do without tokenring_degree"
        )
    tokens = 1
    for size, patch in zip(latents.shape[2:], model.config.patch_size, strict=True):
        tokens *= size // patch
    first = told["kv_cache"][0]
    if _HELD not in first:
        held = HeldTokens(first.get(_PLACES, first["k"].shape[1]), sequence_parallel_ranks())
        for cache in told["kv_cache"]:
            cache[_HELD], cache["k"], cache["v"] = held, cache["k"][:, :0], cache["v"][:, :0]
    turn: ChunkCall = first[_HELD].take(
        told["current_start"],
        tokens,
        window=told["local_attn_size"],
        sinks=told["sink_size"],
        most=told["max_attention_size"],
    )
    return turn


def _enter(turn: ChunkCall) -> Any:
    def hook(block: Any, args: Any, kwargs: Any) -> Any:
        return (turn.own(args[0], 1, _rank()), *args[1:]), kwargs

    return hook


def _leave(turn: ChunkCall) -> Any:
    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        from xfuser.core.distributed import get_sp_group

        whole: Tensor = get_sp_group().all_gather(output.contiguous(), dim=1)
        return whole[:, : turn.tokens]

    return hook


def place_own_tokens(causal_wan: Any) -> None:
    """Cut the table of places as a chunk's tokens are cut."""

    def make(original: Any) -> Any:
        def compute_rope_with_offset(self: Any, *args: Any, **kwargs: Any) -> Any:
            tables = original(self, *args, **kwargs)
            turn: ChunkCall | None = getattr(self, _TURN, None)
            return tables if turn is None else tuple(turn.own(table, 1, _rank()) for table in tables)

        return compute_rope_with_offset

    replace_method(causal_wan.xFuserCausalWanTransformer3DWrapper, "_compute_rope_with_offset", make)


def attend_all_ranks_caches(causal_wan: Any) -> None:
    """Have a chunk's queries travel to the keys of all ranks, which stay where they are."""

    def make(original: Any) -> Any:
        def cached_self_attention(
            self: Any, query: Tensor, key: Tensor, value: Tensor, kv_cache: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            turn: ChunkCall | None = kv_cache.get(_TURN)
            if turn is None:
                return original(self, query, key, value, kv_cache, *args, **kwargs)
            from xfuser.model_executor.layers import usp

            kept = turn.kept.to(key.device)
            for name, new in (("k", key), ("v", value)):
                kv_cache[name] = torch.cat([kv_cache[name].index_select(1, kept), new], dim=1)
            out: Tensor = usp.ring_attn(
                usp._get_attention_function(), *(x.transpose(1, 2) for x in (query, kv_cache["k"], kv_cache["v"]))
            )
            return out.transpose(1, 2)

        return cached_self_attention

    replace_method(causal_wan.xFuserCausalWanAttnProcessor, "_cached_self_attention", make)


def hold_a_part_of_the_cache(pipeline: Any) -> None:
    """Allocate no cache for keys of the whole video, where each rank is to hold its part of them."""

    def make(original: Any) -> Any:
        def initialize_kv_cache(self: Any, *args: Any, kv_cache_size: int, **kwargs: Any) -> Any:
            if not _spread():
                return original(self, *args, kv_cache_size=kv_cache_size, **kwargs)
            return [{**cache, _PLACES: kv_cache_size} for cache in original(self, *args, kv_cache_size=0, **kwargs)]

        return initialize_kv_cache

    replace_method(pipeline.xFuserCausalWanPipeline, "_initialize_kv_cache", make)


def refuse_what_was_not_compared(runner: Any) -> None:
    """Refuse flags of the `xdit` command that were not compared for a streamed video over ranks."""

    def make(original: Any) -> Any:
        def validate_config(self: Any, config: Any) -> None:
            asked = [name for name in ("use_torch_compile", "cache_method") if getattr(config, name, None)]
            if tokenring_degree_of(config) > 1 and asked:
                raise UnsupportedError(
                    f"{asked[0]} was asked for together with tokenring_degree={tokenring_degree_of(config)} for "
                    f"{config.model}, which was not compared with one process: leave one of them out"
                )
            original(self, config)

        return validate_config

    replace_method(runner.xFuserCausalWanModel, "_validate_config", make)


def _spread() -> bool:
    return current_choice() is not None and sequence_parallel_ranks() > 1


def _rank() -> int:
    from xfuser.core.distributed import get_sequence_parallel_rank

    return int(get_sequence_parallel_rank())


def _transformer(causal_wan: Any) -> None:
    compute_chunks_together(causal_wan)
    place_own_tokens(causal_wan)
    attend_all_ranks_caches(causal_wan)


HOOKS = {
    TRANSFORMERS + "transformer_causal_wan": _transformer,
    PIPELINES + "pipeline_causal_wan": hold_a_part_of_the_cache,
    "xfuser.model_executor.models.runner_models.causal_wan": refuse_what_was_not_compared,
}
