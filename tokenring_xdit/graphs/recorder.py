"""What records calls and replays them: CUDA graphs. Tests have another one, for processors.

Not run on a GPU so far.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch

from tokenring_xdit.errors import UnsupportedError

__all__ = ["CudaRecorder", "Recorder", "Recording", "refuse_without_cuda"]

_SYNCHRONIZING = "synchronizing CUDA operation"
"""In what torch says of an operation whose result the host waits for."""

_PROTOTYPE = "Synchronization debug mode is a prototype"
"""In what torch says when it is asked to say so."""

_REGISTRATION = "NCCL_GRAPH_REGISTER"
"""Environment variable of NCCL: 0 has it leave memory that a graph uses as it is."""

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Environment variables of torch; where both are set the first one counts."""

_SEGMENTS = re.compile(r"expandable_segments\s*:\s*True")

_WARN, _SILENT = "warn", "default"


def refuse_without_cuda(asked: str) -> None:
    """Refuse CUDA graphs on a machine without a GPU.

    Args:
        asked: How the user asked for them.

    Raises:
        UnsupportedError: There is none.
    """
    if not torch.cuda.is_available():
        raise UnsupportedError(f"{asked} needs a GPU with CUDA, and torch finds none on this machine: leave it out")


class Recording(Protocol):
    """A call that was recorded.

    Attributes:
        output: What it returned, in memory that each replay writes anew.
        memory_bytes: What it holds.
    """

    output: Any
    memory_bytes: int

    def replay(self) -> None:
        """Do it again, with what is in the memory that it read."""


class Recorder(Protocol):
    """Records calls.

    Attributes:
        device: Where they compute.
    """

    device: torch.device

    def rehearse(self, call: Callable[[], Any]) -> tuple[Any, str | None]:
        """Make a call as it is, and say what keeps it from being recorded: ``None`` where nothing was seen.

        What it returns may be used on the current stream until the next call of the recorder.
        """

    def record(self, call: Callable[[], Any]) -> Recording:
        """Record a call that was rehearsed.

        Raises:
            Exception: It cannot be; what the call has used to talk to other ranks may be unusable then.
        """


def _refuse_segments_that_grow() -> None:
    """Refuse what NCCL cannot register for a graph: it then reads and writes where nothing is (Megatron-LM refuses it).

    Raises:
        UnsupportedError: The environment asks for both.
    """
    asked = next((name for name in _ALLOCATOR if name in os.environ), None)
    if asked is not None and _SEGMENTS.search(os.environ[asked]) and os.environ.get(_REGISTRATION) != "0":
        raise UnsupportedError(
            f"CUDA graphs with {asked}={os.environ[asked]} may access memory that is gone, where NCCL registers it: "
            f"set {_REGISTRATION}=0 too, before the ranks start, or leave expandable_segments out"
        )


class CudaRecorder:
    """Records CUDA graphs. Rehearsals, captures and replays use one stream of its own, as NCCL asks for.

    Args:
        device: A GPU.

    Raises:
        UnsupportedError: The environment asks for memory that graphs cannot be given.
    """

    def __init__(self, device: torch.device) -> None:
        _refuse_segments_that_grow()
        self.device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        self._stream: Any = cast(Any, torch.cuda.Stream)(self.device)

    def rehearse(self, call: Callable[[], Any]) -> tuple[Any, str | None]:
        """As in the protocol; an operation that the host waits for is found by torch's own debug mode."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode(_WARN)
            try:
                output = self._aside(call)
            finally:
                torch.cuda.set_sync_debug_mode(before or _SILENT)
        waits = sum(_SYNCHRONIZING in str(each.message) for each in said)
        for each in said:
            if not any(words in str(each.message) for words in (_SYNCHRONIZING, _PROTOTYPE)):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        return output, f"the host waits for the GPU in {waits} of its operations" if waits else None

    def record(self, call: Callable[[], Any]) -> Recording:
        """As in the protocol."""
        return _CudaRecording(self._stream, call)

    def _aside(self, call: Callable[[], Any]) -> Any:
        current: Any = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = call()
        current.wait_stream(self._stream)
        return output


class _CudaRecording:
    def __init__(self, stream: Any, call: Callable[[], Any]) -> None:
        self._stream = stream
        # A pool of its own, so that a graph that is let go gives all of its memory back.
        self._graph: Any = cast(Any, torch.cuda.CUDAGraph)()
        # The outer one puts the stream back: torch's graph does not where its end fails too, as after a failure inside.
        # Thread-local: NCCL's watchdog and torch's own threads have calls of theirs, which are no part of it.
        with (
            torch.cuda.stream(torch.cuda.current_stream(stream.device)),
            torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
        ):
            before = torch.cuda.memory_reserved(stream.device)  # its beginning has given back what was cached
            self.output = call()
        self.memory_bytes = max(0, torch.cuda.memory_reserved(stream.device) - before)

    def replay(self) -> None:
        current: Any = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._graph.replay()
        current.wait_stream(self._stream)
