"""A transformer that all ranks compute together by xfuser's groups: with xfuser's forward, or diffusers' own, cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import Recorder
from tokenring_xdit.hosts import sharding
from tokenring_xdit.hosts.caches import Together
from tokenring_xdit.hosts.processors import ProcessorSlot, settle
from tokenring_xdit.hosts.running import RUNNING
from tokenring_xdit.hosts.sharding import Sharded, put_in_place, shared_by
from tokenring_xdit.hosts.xfuser.family import XfuserFamily
from tokenring_xdit.hosts.xfuser.state import XfuserState
from tokenring_xdit.hosts.xfuser.supported import refuse_left_out, wrapper_class
from tokenring_xdit.hosts.xfuser.tokens import Cut

__all__ = ["Sharding", "refuse_changed", "shard", "sharding_of"]

_PACKED = 3
"""Dimensions of latents that the pipeline has made a sequence of tokens."""


class Sharding(Sharded):
    """How a transformer is shared out, which it carries with it.

    Args:
        model: The transformer, changed in place: it keeps its weights, adapters, hooks and names.
        state: xfuser's groups.
        family: What is known of it: xfuser's subclass of its class, or where diffusers' own is cut by tokens.
        recorder: Records its calls, where they are to be replayed.
    """

    def __init__(self, model: Any, state: XfuserState, family: XfuserFamily, recorder: Recorder | None = None) -> None:
        super().__init__(model, "xfuser", recorder, family.controls)
        self.state = state
        self._cut = None if family.cut is None else Cut(model, family.cut)
        parent = self.kind if family.wrapper is None else wrapper_class(family.wrapper)
        self.slots = _adopt(model, parent) if self._cut is None else self._cut.slots
        settle(self.slots)
        if self._cut is not None:
            self._cut.hook(model)
        put_in_place(model, self, parent, {"set_attention_backend": _set_attention_backend})

    def enter(self, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """Put xfuser's groups in their places, and say what the call is about."""
        from xfuser.core.distributed import get_sequence_parallel_rank, get_sp_group

        self.state.activate(None)
        runtime = self.state.runtime
        runtime.split_text_embed_in_sp = True
        text = arguments.get("encoder_hidden_states")
        runtime.max_condition_sequence_length = text.shape[1] if isinstance(text, torch.Tensor) else None
        shape: tuple[int, ...] = getattr(arguments.get("hidden_states"), "shape", ())
        group, rank = get_sp_group().device_group, int(get_sequence_parallel_rank())
        RUNNING.together = Together(group, rank, shape[1] if len(shape) == _PACKED else None)
        if self._cut is not None:
            self._cut.begin(model, arguments)
        return arguments

    def leave(self) -> None:
        """The call is over."""
        if self._cut is not None:
            self._cut.end()


def sharding_of(model: Any) -> Sharding | None:
    """How xfuser shares a transformer out, also where ``torch.compile`` has wrapped it; ``None`` if it does not.

    Raises:
        UnsupportedError: Another host does.
    """
    return shared_by(Sharding, model)


def shard(model: Any, state: XfuserState, family: XfuserFamily, recorder: Recorder | None = None) -> None:
    """Let all ranks compute a transformer together from now on; every rank calls it.

    Whole latents go in and come out on every rank.

    Args:
        model: The transformer of diffusers.
        state: xfuser's groups.
        family: What is known of it.
        recorder: Records its calls, where they are to be replayed.
    """
    Sharding(model, state, family, recorder)


def refuse_changed(model: Any, family: XfuserFamily) -> None:
    """Refuse a transformer that cannot be shared out as it is.

    Args:
        model: The transformer.
        family: What is known of it.

    Raises:
        UnsupportedError: It is none of diffusers' own, has what xfuser leaves out, or something was done to it that was
            not compared.
    """
    refuse_left_out(model, family)
    known = {family.cut.transformer} if family.cut is not None else set()
    if family.wrapper is not None:
        known |= {base.__name__ for base in wrapper_class(family.wrapper).__mro__}
    sharding.refuse_changed(model, known, lambda: _found_slots(model, family))


def _set_attention_backend(self: Any, backend: str) -> None:
    if backend != "native":
        raise UnsupportedError(
            f"set_attention_backend({backend!r}) would be without effect in a transformer that parallelize has "
            "spread over ranks: use parallelize(..., attention_backend=...)"
        )


def _found_slots(model: Any, family: XfuserFamily) -> list[ProcessorSlot]:
    """Where attention processors stand in a model that was not changed yet, and diffusers' default in each."""
    if family.cut is not None:
        return Cut(model, family.cut).slots
    with init_empty_weights(include_buffers=False):
        plain = type(model).from_config(model.config)
    own = dict(model.named_modules())
    found = ((name, getattr(module, "processor", None)) for name, module in plain.named_modules() if name in own)
    return [ProcessorSlot(name, own[name], (type(p).__name__,)) for name, p in found if p is not None]


def _adopt(model: Any, wrapper: type) -> list[ProcessorSlot]:
    """Give a model what xfuser's subclass of its class puts into a new one; none of its weights is touched."""
    with init_empty_weights(include_buffers=False):
        pattern: Any = wrapper.from_config(model.config)  # type: ignore[attr-defined]
        if hasattr(pattern, "_install_xfuser_processors"):  # some wrappers do so when weights are loaded
            pattern._install_xfuser_processors()
        plain = type(model).from_config(model.config)
    own, before = dict(model.named_modules()), dict(plain.named_modules())
    slots = []
    for name, theirs in pattern.named_modules():
        ours = own.get(name)
        if ours is None:
            continue
        for key, value in vars(theirs).items():
            if not hasattr(ours, key) and not isinstance(value, torch.nn.Module):
                object.__setattr__(ours, key, value)
        for key, buffer in theirs.named_buffers(recurse=False):
            if key not in dict(ours.named_buffers(recurse=False)):
                persistent = key not in theirs._non_persistent_buffers_set
                ours.register_buffer(key, buffer.to(model.device), persistent=persistent)
        processor = getattr(theirs, "processor", None)
        if processor is not None:
            known = type(before[name].processor)
            same = type(processor) is known  # attention that xfuser leaves as it is
            slots.append(ProcessorSlot(name, ours, (known.__name__,), None if same else _always(processor)))
    return slots


def _always(processor: Any) -> Callable[[Any], Any]:
    return lambda _: processor
