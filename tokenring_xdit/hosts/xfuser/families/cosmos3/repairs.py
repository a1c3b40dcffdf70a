"""What xfuser 0.7.0 gets wrong for Cosmos 3."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.layout import key_layout, sequence_layout
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    change_when_made,
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]


def count_text_once(cosmos3: Any) -> None:
    """Hand text to attention as joint tensors, and as many heads of keys as a kernel needs.

    xfuser 0.7.0: ``xFuserCosmos3AttnProcessor.__call__`` puts the text, which all ranks have, in front of each rank's
    own keys, so that it is counted once a rank; and hands grouped heads to kernels that take no such heads.
    """

    def make_usp(original: Any) -> Any:
        def usp(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
            if not wanted():
                return original(query, key, value, **kwargs)
            if current_choice() is None or key.shape[1] % _ulysses_degree():
                key, value = _expanded(query, key), _expanded(query, value)
            text = key.shape[2] - query.shape[2]
            return original(
                query,
                key[:, :, text:].contiguous(),
                value[:, :, text:].contiguous(),
                joint_query=query[:, :, :0],
                joint_key=key[:, :, :text],
                joint_value=value[:, :, :text],
                joint_strategy="front",
                **kwargs,
            )

        return usp

    def make_local(original: Any) -> Any:
        def attention(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
            if wanted():
                key, value = _expanded(query, key), _expanded(query, value)
            return original(query, key, value, **kwargs)

        return attention

    replace_method(cosmos3, "USP", make_usp)
    replace_method(cosmos3, "attention", make_local)


def leave_padding_out(cosmos3: Any) -> None:
    """Keep padding out of the keys, and take what diffusers' pipeline passes, in any dtype.

    xfuser 0.7.0: the wrapper's ``forward`` pads the tokens to a multiple of the ranks and attends the padding as keys.
    It takes no ``return_dict``, which diffusers' pipeline passes, also in one process, and hands time steps in fp32 to
    layers of another dtype.
    """

    def make_forward(original: Any) -> Any:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not wanted():
                return original(self, *args, **kwargs)
            return_dict = kwargs.pop("return_dict", False)
            more = [kind for kind in ("sound", "action") if kwargs.get(f"{kind}_tokens") is not None]
            if more:
                raise UnsupportedError(
                    f"Cosmos 3 with {' and '.join(more)} was asked for, which was not compared with one process: "
                    "make the video alone, or call the pipeline without parallelize"
                )
            tokens = kwargs["sequence_length"] - kwargs["und_len"]
            steps, dtype = self.time_proj, next(self.time_embedder.parameters()).dtype
            steps.forward = lambda given: type(steps).forward(steps, given).to(dtype)
            try:
                with key_layout(sequence_layout(sequence_parallel_ranks(), tokens)):
                    vision, sound, action = original(self, *args, **kwargs)
            finally:
                del steps.forward
            if not return_dict:
                return vision, sound, action
            from diffusers.models.transformers.transformer_cosmos3 import Cosmos3OmniTransformerOutput

            return Cosmos3OmniTransformerOutput(sample=vision, sound=sound, action=action)

        return forward

    change_when_made(
        cosmos3,
        "_make_xfuser_cosmos3_transformer_wrapper",
        "_wrapper_cls",
        lambda wrapper: replace_forward(wrapper, make_forward),
        author=leave_padding_out,
    )


def _expanded(query: Tensor, key: Tensor) -> Tensor:
    """Grouped heads, each as often as it is attended."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)


def _ulysses_degree() -> int:
    from xfuser.core.distributed import get_ulysses_parallel_world_size

    return int(get_ulysses_parallel_world_size())


def _transformer(cosmos3: Any) -> None:
    count_text_once(cosmos3)
    leave_padding_out(cosmos3)


HOOKS = {TRANSFORMERS + "transformer_cosmos3": _transformer}
