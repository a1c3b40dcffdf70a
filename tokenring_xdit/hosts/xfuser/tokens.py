"""Diffusers' own transformers, cut by tokens, where xfuser has a pipeline of its own only.

The pipeline hands in whole latents and gets whole latents back, so that schedulers, callbacks and guidance see what
they see in one process. From the first block to the last norm a rank has its own tokens, and attention among them is
xfuser's ``USP``, which reaches every rank's keys. Modules keep their classes and names: adapters, hooks and quantised
weights stay where they are.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.changes import TOKEN_WISE, refuse_alone
from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout, padding, sequence_layout
from tokenring_xdit.hosts.processors import InPlaceOfTorch, ProcessorSlot
from tokenring_xdit.hosts.replay import REPLAYABLE
from tokenring_xdit.hosts.xfuser.family import TokenCut
from tokenring_xdit.hosts.xfuser.repairs.common import sequence_parallel_ranks

__all__ = ["Cut"]

_TEXT = "encoder_hidden_states"
_TOKENS = "hidden_states"


class Cut:
    """Cuts one transformer by tokens, between its first block and its last norm.

    Args:
        model: The transformer.
        plan: Where it is cut.
    """

    def __init__(self, model: Any, plan: TokenCut) -> None:
        self._plan = plan
        self._tokens: int | None = None  # of the whole sequence, while the blocks see a part of it
        self._layouts: dict[bool, KeyLayout] = {}
        self._real: Tensor | None = None  # which tokens are, where no block is told
        self._running = False
        self.slots: list[ProcessorSlot] = []
        for blocks in (*plan.blocks, *plan.local_blocks):
            local = blocks in plan.local_blocks
            for index, block in enumerate(getattr(model, blocks)):
                self._find_slots(f"{blocks}.{index}", block, local)

    def hook(self, model: Any) -> None:
        """Cut the tokens in front of the first block from now on, and gather them in front of the last norm."""
        for blocks in (*self._plan.blocks, *self._plan.local_blocks):
            for block in getattr(model, blocks):
                _hook(block, self._enter_local if blocks in self._plan.local_blocks else self._enter)
        _hook(model.get_submodule(self._plan.whole_again), self._leave)

    def begin(self, model: Any, arguments: Mapping[str, Any]) -> None:
        """A call of the transformer begins.

        Args:
            model: The transformer.
            arguments: Of the call, by name.
        """
        self._running, self._tokens = True, None
        if self._plan.real is not None:
            self._real = pkgutil.resolve_name(self._plan.real)(model, arguments)

    def end(self) -> None:
        """It is over, or has failed."""
        self._running, self._tokens, self._real = False, None, None
        self._layouts.clear()

    def _find_slots(self, place: str, block: Any, local: bool) -> None:
        plan = self._plan
        for name, known in {**plan.attention, **plan.other_attention}.items():
            attention = getattr(block, name, None)
            if attention is None:
                continue
            spread = name in plan.attention and not local
            own = self._spread(plan.joint_text and name not in plan.without_text) if spread else None
            self.slots.append(ProcessorSlot(f"{place}.{name}", attention, known, own))

    def _spread(self, with_text: bool) -> Any:
        """What makes a processor of diffusers attend all ranks' keys."""

        def replace(processor: Any) -> Any:
            kind: Any = type(processor)
            if self._plan.spread is None:
                spread = _spread_class(kind, True)()
            else:
                spread = _spread_class(pkgutil.resolve_name(self._plan.spread), False)()
            spread.layout = lambda: self._layouts.get(with_text)
            return spread

        return replace

    def _enter(self, block: Any, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        if not self._running:
            refuse_alone(block)
        arguments = _bound(type(block), args, kwargs)
        tokens: Tensor = arguments[_TOKENS]
        plan, ranks = self._plan, sequence_parallel_ranks()
        if self._tokens is None:
            self._tokens = tokens.shape[1]
            text = arguments[_TEXT].shape[1] if plan.joint_text else None
            self._lay_out(ranks, text, arguments.get("attention_mask"))
            arguments[_TOKENS] = _own(tokens, 1)
            if plan.joint_text:
                arguments[_TEXT] = _own(arguments[_TEXT], 1)
        if plan.rotary is not None and arguments.get(plan.rotary) is not None:
            whole = arguments[plan.rotary]
            pair = isinstance(whole, (tuple, list))  # a table for all items, or one for each
            arguments[plan.rotary] = tuple(_own(table, 0) for table in whole) if pair else _own(whole, 1)
        if "attention_mask" in arguments:
            arguments["attention_mask"] = None  # the layout says it
        return (), arguments

    def _enter_local(self, block: Any, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        """Blocks whose items are the places of this rank's tokens, each with the modulation of its time step."""
        arguments = _bound(type(block), args, kwargs)
        if self._tokens is not None:
            steps: Tensor = arguments["timestep"]
            by_place = steps.view(-1, self._tokens, steps.shape[-1])
            arguments["timestep"] = _own(by_place, 1).reshape(-1, steps.shape[-1])
        return (), arguments

    def _leave(self, module: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._tokens is None:
            return args, kwargs
        from xfuser.core.distributed import get_sp_group

        whole = get_sp_group().all_gather(args[0].contiguous(), dim=1)[:, : self._tokens]
        self._tokens = None
        return (whole, *args[1:]), kwargs

    def _lay_out(self, ranks: int, text: int | None, mask: Tensor | None) -> None:
        """Say which keys of each rank are real, for attention with the text and without it."""
        assert self._tokens is not None
        lengths = [self._tokens]
        if self._real is not None:
            self._layouts[False] = KeyLayout(cut(self._real, ranks), computed=True)
        elif mask is not None:
            self._layouts[False] = KeyLayout(cut(mask.bool(), ranks))
        else:
            self._layouts[False] = sequence_layout(ranks, *lengths)
        if text is not None:
            lengths.insert(0 if self._plan.text_first else 1, text)
            self._layouts[True] = sequence_layout(ranks, *lengths)


def _hook(module: Any, enter: Any) -> None:
    """Have a function change what a module is given, in front of what ``torch.compile`` compiles."""

    @outside_graphs
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        return enter(module, args, kwargs)

    setattr(hook, TOKEN_WISE, True)
    setattr(hook, REPLAYABLE, True)
    module.register_forward_pre_hook(hook, with_kwargs=True)


def _bound(kind: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = _signature(kind).bind(None, *args, **kwargs)
    return dict(list(bound.arguments.items())[1:])


@lru_cache(maxsize=64)
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


def _own(whole: Tensor, dim: int) -> Tensor:
    """This rank's part of a sequence, padded at the end so that all parts are as long."""
    from xfuser.core.distributed import get_sequence_parallel_rank

    ranks, length = sequence_parallel_ranks(), whole.shape[dim]
    each = (length + padding(length, ranks)) // ranks
    first = min(get_sequence_parallel_rank() * each, length)
    part = whole.narrow(dim, first, min(each, length - first))
    missing = each - part.shape[dim]
    if not missing:
        return part.contiguous()
    shape = list(part.shape)
    shape[dim] = missing
    return torch.cat([part, part.new_zeros(shape)], dim=dim)


@lru_cache(maxsize=64)
def _spread_class(kind: Any, intercept: bool) -> Any:
    """A processor whose attention is that of all ranks; of the same name, with the same parameters.

    Args:
        kind: The class of a processor.
        intercept: Whether it calls torch's attention; else it calls ``USP``.
    """
    original = kind.__call__

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        layout = self.layout()
        if layout is None:  # whole sequences: nothing was cut
            return original(self, *args, **kwargs)
        with key_layout(layout):
            if not intercept:
                return original(self, *args, **kwargs)
            with InPlaceOfTorch(_attend) as mode:
                result = original(self, *args, **kwargs)
        if mode.calls != 1:
            raise UnsupportedError(
                f"{kind.__name__} computed attention {mode.calls} times in torch's scaled_dot_product_attention "
                "instead of once, so its keys did not reach all ranks: use diffusers' default attention processor"
            )
        return result

    # A graph would set the layout when it is over, and not before attention asks for it.
    body = {"__call__": wraps(original)(outside_graphs(call)), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), body)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Torch's attention over this rank's queries and all ranks' keys, ``[B, H, S, D]``."""
    from xfuser.model_executor.layers import usp

    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise UnsupportedError(
            f"attention among all ranks' tokens was asked for with attn_mask={attn_mask is not None}, "
            f"dropout_p={dropout_p}, is_causal={is_causal}, enable_gqa={enable_gqa}, which was not compared: leave the "
            "model's attention processors and masks as they are"
        )
    if scale is not None:
        query = query * (scale * query.shape[-1] ** 0.5)
    out: Tensor = usp.USP(query, key, value, combine_qkv_a2a=True)
    return out
