"""Lumina-Image 2.0, which xfuser 0.7.0 refuses to shard over a ring for its padded sequences."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout
from tokenring_xdit.hosts.running import decided_on_the_host
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, replace_method, sequence_parallel_ranks

__all__ = ["HOOKS"]


def let_masked_sequences_round_the_ring(lumina2: Any) -> None:
    """Tell each rank which of its own keys are real, and lift the refusal that stands in for that.

    xfuser 0.7.0: ``xFuserLumina2Transformer2DWrapper`` raises for ring degrees above one, as a mask of
    the whole sequence is of no use to a ring whose keys travel. TokenRing does not send them. The
    mask itself, and the kernel without a log-sum-exp that is asked for because of it, are dropped.
    """

    def make_size(original: Any) -> Any:
        def get_ring_parallel_world_size() -> int:
            from xfuser.core.distributed.runtime_state import runtime_state_is_initialized

            chosen = runtime_state_is_initialized() and current_choice() is not None
            return 1 if chosen else int(original())

        return get_ring_parallel_world_size

    def make_usp(original: Any) -> Any:
        def usp(*args: Any, backend: Any = None, attention_kwargs: Any = None, **kwargs: Any) -> Any:
            if current_choice() is not None:
                backend = attention_kwargs = None
            return original(*args, backend=backend, attention_kwargs=attention_kwargs, **kwargs)

        return usp

    def make_forward(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            encoder_attention_mask: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            inputs = (hidden_states, timestep, encoder_hidden_states, encoder_attention_mask)
            if current_choice() is None:
                return original(self, *inputs, *args, **kwargs)
            patch = self.module.config.patch_size
            image = hidden_states.shape[-2] // patch * (hidden_states.shape[-1] // patch)
            with key_layout(_layout(encoder_attention_mask, image)):
                return original(self, *inputs, *args, **kwargs)

        return forward

    replace_method(lumina2, "get_ring_parallel_world_size", make_size)
    replace_method(lumina2, "USP", make_usp)
    replace_forward(lumina2.xFuserLumina2Transformer2DWrapper, make_forward)


@outside_graphs
def _layout(text_mask: Tensor, image: int) -> KeyLayout:
    decided_on_the_host("lengths of texts, which shapes depend on, are read from a mask in each call")
    return _layout_of_lengths(sequence_parallel_ranks(), tuple(text_mask.sum(dim=1).tolist()), image)


@functools.lru_cache(maxsize=32)
def _layout_of_lengths(ranks: int, texts: tuple[int, ...], image: int) -> KeyLayout:
    """Each item's text, its image right behind, and padding to the longest item's length."""
    lengths = torch.tensor(texts)[:, None] + image
    return KeyLayout(cut(torch.arange(int(lengths.max())) < lengths, ranks))


HOOKS = {TRANSFORMERS + "transformer_lumina2": let_masked_sequences_round_the_ring}
