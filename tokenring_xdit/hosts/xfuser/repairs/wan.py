"""What xfuser 0.7.0 gets wrong for Wan 2.x."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenring_xdit.hosts.xfuser.layout import key_layout
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    sequence_layout,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]


def leave_padding_out(wan: Any) -> None:
    """Keep padding out of the keys.

    xfuser 0.7.0: ``xFuserWanTransformer3DWrapper.forward`` pads the tokens to a multiple of the ranks
    and attends the padding as keys (5.5e-3 off).
    """

    def make(original: Any) -> Any:
        def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not wanted():
                return original(self, hidden_states, *args, **kwargs)
            tokens = 1
            for size, patch in zip(hidden_states.shape[2:], self.config.patch_size, strict=True):
                tokens *= size // patch
            with key_layout(sequence_layout(sequence_parallel_ranks(), tokens)):
                return original(self, hidden_states, *args, **kwargs)

        return forward

    replace_forward(wan.xFuserWanTransformer3DWrapper, make)


HOOKS = {"xfuser.model_executor.models.transformers.transformer_wan": leave_padding_out}
