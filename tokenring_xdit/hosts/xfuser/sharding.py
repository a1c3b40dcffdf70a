"""A transformer that all ranks compute together, in the place and around the weights of the one that was loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights

from tokenring_xdit.attention import exchange
from tokenring_xdit.compat.torch import frame_outside_graphs, outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import GraphedCalls, Recorder
from tokenring_xdit.hosts.agreement import agree_on_inputs, noting
from tokenring_xdit.hosts.caches import Together
from tokenring_xdit.hosts.changes import refuse_changes
from tokenring_xdit.hosts.processors import ProcessorSlot, settle
from tokenring_xdit.hosts.replay import ReplayCheck, surroundings
from tokenring_xdit.hosts.running import RUNNING, watching_decisions
from tokenring_xdit.hosts.weights import Weights
from tokenring_xdit.hosts.xfuser.family import XfuserFamily
from tokenring_xdit.hosts.xfuser.state import XfuserState
from tokenring_xdit.hosts.xfuser.supported import wrapper_class
from tokenring_xdit.hosts.xfuser.tokens import Cut

__all__ = ["Sharding", "refuse_changed", "shard", "sharding_of"]

_ATTRIBUTE = "_tokenring_sharding"

_PACKED = 3
"""Dimensions of latents that the pipeline has made a sequence of tokens."""


class Sharding:
    """How a transformer is shared out, which it carries with it.

    Args:
        model: The transformer, changed in place: it keeps its weights, adapters, hooks and names.
        state: xfuser's groups.
        family: What is known of it: xfuser's subclass of its class, or where diffusers' own is cut by tokens.
        recorder: Records its calls, where they are to be replayed.

    Attributes:
        graphs: Its calls, where they are replayed.
    """

    def __init__(self, model: Any, state: XfuserState, family: XfuserFamily, recorder: Recorder | None = None) -> None:
        self.state = state
        self.graphs = None if recorder is None else _graphed(type(model).__name__, recorder)
        self._look = ReplayCheck()
        self._kind = type(model)
        self._signature = inspect.signature(self._kind.forward)
        self._cut = None if family.cut is None else Cut(model, family.cut)
        parent = self._kind if family.wrapper is None else wrapper_class(family.wrapper)
        self._slots = _adopt(model, parent) if self._cut is None else self._cut.slots
        settle(self._slots)
        if self._cut is not None:
            self._cut.hook(model)
        self._weights = Weights(model)
        self._checked = False
        model.__class__ = _sharded_class(self._kind, parent)

    def __deepcopy__(self, memo: Any) -> Sharding:
        """Process groups cannot be copied, and a copy of the model is shared out like it."""
        return self

    @property
    def kind(self) -> str:
        """The transformer's class in diffusers."""
        return self._kind.__name__

    @outside_graphs
    def check(self, model: Any) -> None:
        """Refuse what was done to the transformer and was not compared.

        Raises:
            UnsupportedError: Attention processors, hooks, caches or dropout that were not.
        """
        settle(self._slots)
        refuse_changes(model, self.kind)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Inside, the transformer has been checked as a whole, and calls of it need not do so again."""
        self._checked = True
        try:
            yield
        finally:
            self._checked = False

    def weights(self) -> dict[str, str]:
        """Digests of the transformer's parts, which all ranks have to have alike."""
        return self._weights.summary()

    @outside_graphs
    def begin(self, model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """Agree with the other ranks on a call of the transformer.

        Returns:
            Its arguments by name.

        Raises:
            AgreementError: The ranks differ in them.
            UnsupportedError: It was not compared like this.
        """
        from xfuser.core.distributed import get_sequence_parallel_rank, get_sp_group

        arguments = dict(list(self._signature.bind(model, *args, **kwargs).arguments.items())[1:])
        with noting() as noted:
            if self._checked:
                settle(self._slots)
            else:
                self.check(model)
            _refuse_arguments(self.kind, arguments)
            proposal = (
                None if self.graphs is None else self.graphs.propose(arguments, *self._look(model), surroundings())
            )
        told = agree_on_inputs(self.kind, arguments, noted.problem, None if noted.problem else proposal)
        if self.graphs is not None:
            self.graphs.settle(told)
        self.state.activate(None)
        runtime = self.state.runtime
        runtime.split_text_embed_in_sp = True
        text = arguments.get("encoder_hidden_states")
        runtime.max_condition_sequence_length = text.shape[1] if isinstance(text, torch.Tensor) else None
        shape: tuple[int, ...] = getattr(arguments.get("hidden_states"), "shape", ())
        group, rank = get_sp_group().device_group, int(get_sequence_parallel_rank())
        RUNNING.together = Together(group, rank, shape[1] if len(shape) == _PACKED else None)
        if self._cut is not None:
            self._cut.begin()
        return arguments

    @outside_graphs
    def end(self) -> None:
        """The call is over."""
        RUNNING.together = None
        if self._cut is not None:
            self._cut.end()


def sharding_of(model: Any) -> Sharding | None:
    """How a transformer is shared out, also where ``torch.compile`` has wrapped it; ``None`` if it is not."""
    found: Sharding | None = getattr(getattr(model, "_orig_mod", model), _ATTRIBUTE, None)
    return found


def shard(model: Any, state: XfuserState, family: XfuserFamily, recorder: Recorder | None = None) -> None:
    """Let all ranks compute a transformer together from now on; every rank calls it.

    Whole latents go in and come out on every rank.

    Args:
        model: The transformer of diffusers.
        state: xfuser's groups.
        family: What is known of it.
        recorder: Records its calls, where they are to be replayed.
    """
    setattr(model, _ATTRIBUTE, Sharding(model, state, family, recorder))


def _graphed(kind: str, recorder: Recorder) -> GraphedCalls:
    return GraphedCalls(
        kind, recorder, exchange=partial(exchange, None), watch=watching_decisions, tells=dist.get_rank() == 0
    )


def refuse_changed(model: Any, family: XfuserFamily) -> None:
    """Refuse a transformer that cannot be shared out as it is.

    Args:
        model: The transformer.
        family: What is known of it.

    Raises:
        UnsupportedError: It is none of diffusers' own, or something was done to it that was not compared.
    """
    known = {family.cut.transformer} if family.cut is not None else set()
    if family.wrapper is not None:
        known |= {base.__name__ for base in wrapper_class(family.wrapper).__mro__}
    if type(model).__name__ not in known or not type(model).__module__.startswith("diffusers."):
        raise UnsupportedError(
            f"the class of the transformer is {type(model).__name__}, and only diffusers' own was compared: load "
            "adapters with pipe.load_lora_weights or pipe.transformer.add_adapter, and compile after parallelize"
        )
    kind = type(model).__name__
    refuse_changes(model, kind)
    settle(_found_slots(model, family), replace=False)
    if "forward" in vars(model):
        raise UnsupportedError(
            f"the forward of the {kind} was replaced before parallelize (by group offloading or a hook of accelerate, "
            "say), and would compute the whole on every rank: call parallelize first, and do that after it"
        )
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            f"the {kind} was compiled before parallelize: call parallelize first, and compile after it"
        )


def _sharded_class(kind: type, parent: type) -> type:
    """A class with the name by which diffusers knows the transformer, so that what is saved can be loaded."""
    compute = parent.forward  # type: ignore[attr-defined]

    @wraps(kind.forward)  # type: ignore[attr-defined]
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        sharding: Sharding = getattr(self, _ATTRIBUTE)
        arguments = sharding.begin(self, args, kwargs)
        try:
            if sharding.graphs is not None:
                return sharding.graphs(partial(compute, self), arguments)
            return compute(self, **arguments)
        finally:
            sharding.end()

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not dist.is_initialized() or dist.get_rank() == 0:  # the others have the same weights
            kind.save_pretrained(self, *args, **kwargs)  # type: ignore[attr-defined]

    def set_attention_backend(self: Any, backend: str) -> None:
        if backend != "native":
            raise UnsupportedError(
                f"set_attention_backend({backend!r}) would be without effect in a transformer that parallelize has "
                "spread over ranks: use parallelize(..., attention_backend=...)"
            )

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "forward": frame_outside_graphs(forward),
        "save_pretrained": wraps(kind.save_pretrained)(save_pretrained),  # type: ignore[attr-defined]
        "set_attention_backend": set_attention_backend,
    }
    return type(kind.__name__, (parent,), body)


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


def _refuse_arguments(kind: str, arguments: dict[str, Any]) -> None:
    """Refuse what the compared pipelines do not hand to a transformer.

    Raises:
        UnsupportedError: There is such an argument.
    """
    given = [name for name, value in arguments.items() if "control" in name and value is not None]
    for name, value in arguments.items():
        if name.endswith("attention_kwargs") and isinstance(value, dict):
            given += [f"{name}[{key!r}]" for key in value if key != "scale"]
    if given:
        raise UnsupportedError(
            f"{', '.join(given)} reached the {kind}, which was not compared with the single process when it is spread "
            "over ranks: leave it out (a ControlNet, an IP-Adapter), or do without parallelize"
        )
