"""A model of diffusers that all ranks compute together, in the place and around the weights of the one that was loaded.

What every host does is here: the class that is put in its place, what is agreed on before each of its calls, what is
refused. How the sequence is cut, and what attends, is the host's (a subclass of :class:`Sharded`).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, TypeVar

import torch.distributed as dist

from tokenring_xdit.attention import exchange, guarded
from tokenring_xdit.compat.torch import frame_outside_graphs, outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import GraphedCalls, Recorder
from tokenring_xdit.hosts.agreement import agree_on_inputs, noting
from tokenring_xdit.hosts.changes import refuse_changes
from tokenring_xdit.hosts.forwards import handed_over, is_replaced, refuse_held
from tokenring_xdit.hosts.processors import ProcessorSlot, settle
from tokenring_xdit.hosts.replay import ReplayCheck, surroundings
from tokenring_xdit.hosts.running import RUNNING, watching_decisions
from tokenring_xdit.hosts.weights import Weights

__all__ = [
    "Sharded",
    "put_in_place",
    "refuse_changed",
    "sharded_of",
    "shared_by",
    "spread_elsewhere",
    "still_shared_by",
    "taken_out",
    "transformers_of",
]

_ATTRIBUTE = "_tokenring_sharding"

_TRANSFORMERS = ("transformer", "transformer_2", "unconditional_transformer")


_Sharded = TypeVar("_Sharded", bound="Sharded")


class Sharded(ABC):
    """How a model is shared out, which it carries with it.

    Args:
        model: The model, as it was loaded.
        host: Which host shares it out.
        recorder: Records its calls, where they are to be replayed.
        controls: Arguments of its calls, and of its attention, that control it (a ControlNet's, say) and were compared.

    Attributes:
        host: That.
        kind: The model's class in diffusers.
        slots: Its attention modules, and what may stand in them.
        graphs: Its calls, where they are replayed.
    """

    def __init__(self, model: Any, host: str, recorder: Recorder | None = None, controls: tuple[str, ...] = ()) -> None:
        self.host = host
        self._controls = controls
        self.graphs = None if recorder is None else _graphed(type(model).__name__, recorder)
        self._look = ReplayCheck()
        self.kind: Any = type(model)
        self.slots: Sequence[ProcessorSlot] = ()
        self._signature = inspect.signature(self.kind.forward)
        self._weights = Weights(model)
        self._checked = False

    def __deepcopy__(self, memo: Any) -> Sharded:
        """Process groups cannot be copied, and a copy of the model is shared out like it."""
        return self

    @outside_graphs
    def check(self, model: Any) -> None:
        """Refuse what was done to the model and was not compared.

        Raises:
            UnsupportedError: Attention processors, hooks, caches or dropout that were not.
        """
        settle(self.slots)
        refuse_changes(model, self.kind.__name__)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Inside, the model has been checked as a whole, and calls of it need not do so again."""
        self._checked = True
        try:
            yield
        finally:
            self._checked = False

    def weights(self) -> dict[str, str]:
        """Digests of the model's parts, which all ranks have to have alike."""
        return self._weights.summary()

    @outside_graphs
    def begin(self, model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """Agree with the other ranks on a call of the model.

        Returns:
            Its arguments by name, as this rank computes with them; where calls are replayed, as they were given.

        Raises:
            AgreementError: The ranks differ in them.
            UnsupportedError: It was not compared like this.
        """
        arguments = dict(list(self._signature.bind(model, *args, **kwargs).arguments.items())[1:])
        with noting() as noted:
            if self._checked:
                settle(self.slots)
            else:
                self.check(model)
            _refuse_arguments(self.kind.__name__, arguments, self._controls)
            self.refuse(model, arguments)
            graphs = self.graphs
            proposal = None if graphs is None else graphs.propose(arguments, *self._look(model), surroundings())
        told = agree_on_inputs(self.kind.__name__, arguments, noted.problem, None if noted.problem else proposal)
        if self.graphs is not None:
            self.graphs.settle(told)
            return arguments  # what is replayed enters where it runs
        return self.enter(model, arguments)

    @outside_graphs
    def end(self) -> None:
        """The call is over, or has failed."""
        RUNNING.together = None
        self.leave()

    def refuse(self, model: Any, arguments: Mapping[str, Any]) -> None:  # noqa: B027 - a host need not
        """Refuse a call for reasons of the host's own; nothing has been computed yet.

        Raises:
            UnsupportedError: It was not compared like this.
        """

    @abstractmethod
    def enter(self, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """All ranks have agreed on a call: say so to what looks at :data:`RUNNING`.

        Args:
            model: The model.
            arguments: What it is given.

        Returns:
            The arguments that this rank computes with.
        """

    @abstractmethod
    def leave(self) -> None:
        """The call is over, or has failed."""


def sharded_of(model: Any) -> Sharded | None:
    """How a model is shared out, also where ``torch.compile`` has wrapped it; ``None`` if it is not."""
    found: Sharded | None = getattr(getattr(model, "_orig_mod", model), _ATTRIBUTE, None)
    return found


def shared_by(kind: type[_Sharded], model: Any) -> _Sharded | None:
    """How one host shares a model out, also where ``torch.compile`` has wrapped it; ``None`` if nobody does.

    Args:
        kind: The host's.
        model: The model.

    Raises:
        UnsupportedError: Another host does.
    """
    found = sharded_of(model)
    if found is None or isinstance(found, kind):
        return found
    raise UnsupportedError(
        f"the {found.kind.__name__} was made parallel with host='{found.host}' before: use that here too, or load the "
        "pipeline anew"
    )


def still_shared_by(kind: type[_Sharded], name: str, model: Any) -> _Sharded:
    """As :func:`shared_by`, for a model of a pipeline that was spread.

    Args:
        kind: The host's.
        name: What the pipeline calls the model.
        model: The model.

    Raises:
        UnsupportedError: Nobody shares it out: another model was put in its place.
    """
    sharded = shared_by(kind, model)
    if sharded is None:
        raise UnsupportedError(
            f"the {name} of this pipeline was replaced after parallelize ({type(model).__name__}), and would "
            "compute the whole on every rank: load the pipeline with it, and call parallelize then"
        )
    return sharded


def spread_elsewhere(pipe: Any, host: str) -> str | None:
    """Why a host cannot spread a pipeline any more whose transformer another one spread, in a clause; or ``None``."""
    for part, model in transformers_of(pipe).items():
        found = sharded_of(model)
        if found is not None and found.host != host:
            return f"{found.host} has spread its {part} already"
    return None


def transformers_of(pipe: Any) -> dict[str, Any]:
    """The transformers of a pipeline, by what it calls them."""
    found = ((part, getattr(pipe, part, None)) for part in _TRANSFORMERS)
    return {part: model for part, model in found if model is not None}


def put_in_place(model: Any, sharded: Sharded, parent: Any, methods: Mapping[str, Any]) -> None:
    """Change a model's class in place; its name stays, by which diffusers saves it, so that it can be loaded.

    Args:
        model: The model.
        sharded: How it is shared out.
        parent: The class whose forward computes this rank's part.
        methods: What the host puts in the place of methods of the class.
    """
    kind = sharded.kind
    compute = parent.forward

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        shared: Sharded = getattr(self, _ATTRIBUTE)
        with guarded(None, f"a call of the {kind.__name__}"):
            try:
                arguments = shared.begin(self, args, kwargs)
                if shared.graphs is not None:
                    return shared.graphs(lambda **given: compute(self, **shared.enter(self, given)), arguments)
                return compute(self, **arguments)
            finally:
                shared.end()

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not dist.is_initialized() or dist.get_rank() == 0:  # the others have the same weights
            kind.save_pretrained(self, *args, **kwargs)

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "forward": frame_outside_graphs(forward),
        "save_pretrained": wraps(kind.save_pretrained)(save_pretrained),
        **methods,
    }
    with handed_over(model):
        model.__class__ = type(kind.__name__, (parent,), body)
    setattr(model, _ATTRIBUTE, sharded)


def taken_out(model: Any) -> Sharded:
    """Give a model its class back.

    Returns:
        How it was shared out.

    Raises:
        UnsupportedError: Something holds on to the forward of the class that it had meanwhile.
    """
    refuse_held(model)
    sharded: Sharded = getattr(model, _ATTRIBUTE)
    with handed_over(model):
        model.__class__ = sharded.kind
    delattr(model, _ATTRIBUTE)
    return sharded


def refuse_changed(model: Any, known: set[str], slots: Callable[[], Sequence[ProcessorSlot]]) -> None:
    """Refuse a model that cannot be shared out as it is.

    Args:
        model: The model.
        known: Names of diffusers' classes that were compared.
        slots: Finds its attention modules, and what may stand in them.

    Raises:
        UnsupportedError: It is none of diffusers' own, or something was done to it that was not compared.
    """
    kind = type(model).__name__
    if kind not in known or not type(model).__module__.startswith("diffusers."):
        raise UnsupportedError(
            f"the class of the transformer is {kind}, and only diffusers' own was compared: load "
            "adapters with pipe.load_lora_weights or pipe.transformer.add_adapter, and compile after parallelize"
        )
    refuse_changes(model, kind)
    settle(slots(), replace=False)
    if is_replaced(model):
        raise UnsupportedError(
            f"the forward of the {kind} was replaced before parallelize (by a function of your own, say), and would "
            "compute the whole on every rank: call parallelize first, and do that after it"
        )
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            f"the {kind} was compiled before parallelize: call parallelize first, and compile after it"
        )


def _refuse_arguments(kind: str, arguments: Mapping[str, Any], controls: tuple[str, ...]) -> None:
    """Refuse what the compared pipelines do not hand to a transformer.

    Args:
        kind: Its class.
        arguments: What it is given.
        controls: What a ControlNet or an adapter may hand to it.

    Raises:
        UnsupportedError: There is such an argument.
    """
    told = (name for name, value in arguments.items() if value is not None and name not in controls)
    given = [name for name in told if "control" in name]
    for name, value in arguments.items():
        if name.endswith("attention_kwargs") and isinstance(value, dict):
            given += [f"{name}[{key!r}]" for key in value if key not in ("scale", *controls)]
    if given:
        raise UnsupportedError(
            f"{', '.join(given)} reached the {kind}, which was not compared with the single process when it is spread "
            "over ranks: leave it out (a ControlNet, an IP-Adapter), or do without parallelize"
        )


def _graphed(kind: str, recorder: Recorder) -> GraphedCalls:
    return GraphedCalls(
        kind, recorder, exchange=partial(exchange, None), watch=watching_decisions, tells=dist.get_rank() == 0
    )
