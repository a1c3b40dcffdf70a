"""What xfuser 0.7.0 gets wrong in the attention processors of Latte and SD3.5 medium."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenring_xdit.hosts.xfuser.repairs.common import replace_method, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def attend_over_time_locally(processors: Any) -> None:
    """Attend over the frames of one place on the rank that holds that place.

    xfuser 0.7.0: Latte's temporal attention, whose sequences are whole on every rank, goes through
    ``USP`` as well and mixes the places of different ranks (0.8 off, of 40).
    """
    local = False

    def make_call(original: Any) -> Any:
        def call(self: Any, *args: Any, latte_temporal_attention: bool = False, **kwargs: Any) -> Any:
            nonlocal local
            before, local = local, latte_temporal_attention and wanted()
            try:
                return original(self, *args, latte_temporal_attention=latte_temporal_attention, **kwargs)
            finally:
                local = before

        return call

    def make_usp(original: Any) -> Any:
        def usp(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
            if not local:
                return original(query, key, value, **kwargs)
            from xfuser.model_executor.layers.usp import attention

            return attention(query, key, value)

        return usp

    replace_method(processors.xFuserAttnProcessor2_0, "__call__", make_call)
    replace_method(processors, "USP", make_usp)


def attend_the_image_alone(processors: Any) -> None:
    """Run the second attention of SD3.5 medium's dual blocks, which sees no text.

    xfuser 0.7.0: ``xFuserJointAttnProcessor2_0`` sets ``joint_strategy`` only where there is text, and
    raises ``UnboundLocalError`` where there is none.
    """

    def make(original: Any) -> Any:
        def call(
            self: Any, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            if encoder_hidden_states is not None or sequence_parallel_ranks() == 1 or not wanted():
                return original(self, attn, hidden_states, encoder_hidden_states, *args, **kwargs)
            query, key, value = (
                project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for project in (attn.to_q, attn.to_k, attn.to_v)
            )
            if attn.norm_q is not None:
                query = attn.norm_q(query)
            if attn.norm_k is not None:
                key = attn.norm_k(key)
            out = processors.USP(query, key, value, attn_layer=attn).transpose(1, 2).flatten(2)
            return attn.to_out[1](attn.to_out[0](out))

        return call

    replace_method(processors.xFuserJointAttnProcessor2_0, "__call__", make)


def _processors(processors: Any) -> None:
    attend_over_time_locally(processors)
    attend_the_image_alone(processors)


HOOKS = {"xfuser.model_executor.layers.attention_processor": _processors}
