"""A recorder for processors: it records operators and does them again on the same memory, as a GPU does with kernels.

What Python did meanwhile is not done again: whoever relies on it computes wrongly here, as on a GPU. Messages of the
package's transports are recorded as posts and waits, collectives of others as operators that are waited for at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tokenring_xdit.attention.transport.process_groups import ProcessGroupTransport

_READS = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::_unique2",
        "aten::bincount",
        "aten::equal",
        "aten::masked_select",
        "aten::nonzero",
        "aten::unique_consecutive",
        "aten::unique_dim",
    }
)
"""Operators whose result, or its size, the host waits for; a GPU cannot capture them."""

_INDEXED = frozenset(["aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"])
"""Operators that ask where an index is true, if one is bool."""

_TRANSPORT = ("post", "wait_for", "all_gather", "all_to_all")


class HostRead(RuntimeError):
    """The host asked for what is in a tensor."""


class _Handle:
    """A transfer that was posted, then or in the last replay."""

    def __init__(self, work: Any) -> None:
        self.work = work

    def wait(self) -> None:
        self.work.wait()


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), kwargs or {}
        if read_by_host(name, args):
            raise HostRead(f"{name} cannot be captured: the host waits for its result")
        found = func(*args, **kwargs)
        if not name.startswith("_c10d_functional::wait_tensor"):
            self.steps.append(lambda: _again(func, args, kwargs, found))
        return found

    @contextmanager
    def transport(self) -> Iterator[None]:
        """Inside, what transports do is recorded as a whole."""
        originals = {name: getattr(ProcessGroupTransport, name) for name in _TRANSPORT}

        def post(transport: Any, recvs: Sequence[Any], sends: Sequence[Any]) -> list[Any]:
            recvs, sends = list(recvs), list(sends)
            with _disable_current_modes():
                handles = [_Handle(work) for work in originals["post"](transport, recvs, sends)]

            def again() -> None:
                for handle, work in zip(handles, originals["post"](transport, recvs, sends), strict=True):
                    handle.work = work

            self.steps.append(again)
            return handles

        def wait_for(transport: Any, works: Sequence[Any], size: int) -> None:
            works = list(works)

            def again() -> None:
                originals["wait_for"](transport, [getattr(work, "work", work) for work in works], size)

            with _disable_current_modes():
                again()
            self.steps.append(again)

        def collective(name: str) -> Callable[..., None]:
            def collect(transport: Any, *arguments: Any) -> None:
                with _disable_current_modes():
                    originals[name](transport, *arguments)
                self.steps.append(lambda: originals[name](transport, *arguments))

            return collect

        ours = {
            "post": post,
            "wait_for": wait_for,
            "all_gather": collective("all_gather"),
            "all_to_all": collective("all_to_all"),
        }
        for name, function in ours.items():
            setattr(ProcessGroupTransport, name, function)
        try:
            yield
        finally:
            for name, function in originals.items():
                setattr(ProcessGroupTransport, name, function)


def read_by_host(name: str, args: Any) -> bool:
    kind = name.partition(".")[0]
    if name == "aten::repeat_interleave.Tensor":
        return True
    if kind in _INDEXED:
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return kind in _READS


def _again(func: Any, args: Any, kwargs: Any, before: Any) -> None:
    """Do an operator again, with its outputs in the memory that they had."""
    found = func(*args, **kwargs)
    name = func.name()
    if name.startswith("_c10d_functional::"):
        found = torch.utils._pytree.tree_map(torch.ops._c10d_functional.wait_tensor, found)
    for new, old in zip(_leaves(found), _leaves(before), strict=True):
        if not isinstance(new, Tensor):
            if name.startswith("c10d::") and hasattr(new, "wait"):
                new.wait()
        elif new.data_ptr() != old.data_ptr() and "empty" not in name:
            old.copy_(new)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


Transports = Callable[[list[Callable[[], object]]], AbstractContextManager[None]]
"""Inside, what transports do is added to the steps of a recording."""


class OperatorRecording:
    """A call as operators.

    Args:
        call: The call.
        transport: Adds what transports do; those of process groups where nothing is said.
    """

    def __init__(self, call: Callable[[], Any], transport: Transports | None = None) -> None:
        mode = _Operators()
        with mode.transport() if transport is None else transport(mode.steps), mode:
            self.output = call()
        self._steps = mode.steps
        self.memory_bytes = 1 << 20

    def replay(self) -> None:
        """Do the operators again."""
        with torch.inference_mode():  # inside, memory of either kind can be written to
            for step in self._steps:
                step()


class OperatorRecorder:
    """Records calls on a processor.

    Args:
        device: Where they compute.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = torch.device("cpu") if device is None else device

    def rehearse(self, call: Callable[[], Any]) -> tuple[Any, str | None]:
        """Make the call."""
        return call(), None

    def record(self, call: Callable[[], Any]) -> OperatorRecording:
        """Record the call; it computes meanwhile, of which nothing is kept."""
        return OperatorRecording(call)


class _Reads(TorchDispatchMode):
    """Counts what the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += read_by_host(func.name(), args)
        return func(*args, **(kwargs or {}))


class WatchfulRecorder(OperatorRecorder):
    """The same that sees in a rehearsal where the host would wait for a GPU, as torch's debug mode does."""

    def rehearse(self, call: Callable[[], Any]) -> tuple[Any, str | None]:
        """Make the call."""
        with _Reads() as reads:
            output = call()
        return output, f"the host waits for the GPU in {reads.count} of its operations" if reads.count else None
