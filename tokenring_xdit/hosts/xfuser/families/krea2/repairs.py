"""What xfuser 0.7.0 gets wrong for Krea 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, active_layout, cut, sequence_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    show_parameters,
    under_layout,
    wanted,
)

__all__ = ["HOOKS"]


def build_the_configured_model(krea2: Any) -> None:
    """Let ``from_config`` and ``from_pretrained`` see the model's parameters.

    xfuser 0.7.0: ``xFuserKrea2Transformer2DWrapper.__init__`` takes ``*args, **kwargs``, from which diffusers reads
    that the model has no parameters: the config is dropped, and that of the released checkpoints built.
    """
    show_parameters(
        krea2.xFuserKrea2Transformer2DWrapper, krea2.Krea2Transformer2DModel, author=build_the_configured_model
    )


def leave_padding_and_masked_text_out(krea2: Any) -> None:
    """Leave padding and masked text out of the keys where they are, in place of a mask of all ranks' keys.

    xfuser 0.7.0: ``xFuserKrea2Transformer2DWrapper.forward`` hides padding only where text is masked, attending it
    where it is not, and keeps a mask under the address of the tensor that it was made of, which another prompt's may
    have later. Making it, the host waits for the GPU, which cannot be recorded; under a layout nobody reads it.
    """

    def make_forward(original: Any) -> Any:
        under = under_layout(original, _layout)

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return under(self, *args, **kwargs)
            finally:
                if wanted():
                    self._attn_mask_cache = None  # a call without a layout would find that there is no mask

        return forward

    def make_mask(original: Any) -> Any:
        def make_attn_mask_with_meta(*args: Any, **kwargs: Any) -> Any:
            return None if active_layout() is not None else original(*args, **kwargs)

        return make_attn_mask_with_meta

    def make_call(original: Any) -> Any:
        def call(
            self: Any, attn: Any, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            said = active_layout() is not None  # it says what the mask does
            return original(self, attn, hidden_states, None if said else attention_mask, *args, **kwargs)

        return call

    replace_forward(krea2.xFuserKrea2Transformer2DWrapper, make_forward)
    replace_method(krea2, "make_attn_mask_with_meta", make_mask)
    replace_method(krea2.xFuserKrea2AttnProcessor, "__call__", make_call)


@outside_graphs
def _layout(_: Any, arguments: Mapping[str, Any]) -> KeyLayout:
    """Text in front of the picture, padded at the end of both."""
    image, text = arguments["hidden_states"].shape[1], arguments["encoder_hidden_states"].shape[1]
    mask: Tensor | None = arguments.get("encoder_attention_mask")
    if mask is None:
        return sequence_layout(sequence_parallel_ranks(), text + image)
    real = torch.cat([mask.bool(), mask.new_ones(mask.shape[0], image, dtype=torch.bool)], dim=1)
    return KeyLayout(cut(real, sequence_parallel_ranks()), computed=True)


def _transformer(krea2: Any) -> None:
    build_the_configured_model(krea2)
    leave_padding_and_masked_text_out(krea2)


HOOKS = {TRANSFORMERS + "transformer_krea2": _transformer}
