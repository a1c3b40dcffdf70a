"""What xfuser 0.7.0 gets wrong for Latte."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenring_xdit.hosts.xfuser.family import PROCESSORS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method, wanted

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


HOOKS = {PROCESSORS: attend_over_time_locally}
