"""Records what xfuser's own attention does: Ulysses' all-to-alls, the transfers of Ring, kernels and merges.

A collective has one transfer each way, from its post until this rank found it to be over: nobody tells what goes to
which peer inside of it, and when. Only a rotation, in which each rank sends one message and gets one, has peers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import Trace
from tokenring_xdit.compat.torch import RING_MODULE
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.schedule import WHOLE, Activity, Piece, kv_block, o_block, q_block

__all__ = ["trace_upstream"]


@contextmanager
def trace_upstream(trace: Trace) -> Iterator[None]:
    """Record what the calls of ``USP`` inside do, under Ulysses, Ring or both; TokenRing records itself.

    Args:
        trace: Where to record.
    """
    torch_ring = importlib.import_module(RING_MODULE)
    from xfuser.model_executor.layers import usp

    upstream = _Upstream(trace, usp)
    gather, rotate = torch_ring._AllGatherRotater, torch_ring._AllToAllRotater
    with ExitStack() as stack:
        for owner, name, make in (
            (usp, "ring_attn", upstream.ring_attn),
            (usp, "_get_attention_function", upstream.get_attention_function),
            (usp, "_sdpa_all_to_all_single", upstream.all_to_all),
            (gather, "exchange_buffers", upstream.gather),
            (gather, "next_buffer", upstream.next_buffer),
            (rotate, "exchange_buffers", upstream.rotate),
            (rotate, "next_buffer", upstream.next_buffer),
            (torch_ring._SDPAMerger, "step", upstream.merge),
        ):
            value = make(getattr(owner, name))
            stack.enter_context(INSTALLATION.replaced(owner, name, value, "records what attention does"))
        yield


class _Moving(NamedTuple):
    """A transfer of Ring that is under way."""

    start: float
    channel: str
    sent: str
    received: str
    to: int | None
    origin: int | None
    size: int


class _Upstream:
    """What is put in the place of upstream's functions, each made from the function itself."""

    def __init__(self, trace: Trace, usp: Any) -> None:
        self._trace = trace
        self._groups = usp.PROCESS_GROUP
        self._step = 0  # of the ring
        self._moving: _Moving | None = None

    # -- names -------------------------------------------------------------------------------------

    @property
    def _rank(self) -> int:
        return dist.get_rank(self._groups.RING_PG)

    @property
    def _ranks(self) -> int:
        return dist.get_world_size(self._groups.RING_PG)

    @property
    def _heads(self) -> Piece:
        """Which heads this rank has after the exchange of Ulysses."""
        ulysses = self._groups.ULYSSES_PG
        return Piece(dist.get_rank(ulysses), dist.get_world_size(ulysses))

    def _peer(self, distance: int) -> int:
        return dist.get_global_rank(self._groups.RING_PG, (self._rank + distance) % self._ranks)

    def _keys(self, step: int) -> str:
        """The keys that a ring has brought here at a step: each rank hands its own to the next one."""
        return str(kv_block((self._rank - step) % self._ranks, heads=self._heads))

    def _attended(self) -> str:
        if self._ranks > 1:
            return f"{q_block(self._rank, heads=self._heads)} to {self._keys(self._step)}"
        which = "" if self._heads == WHOLE else f" heads {self._heads}"
        return f"Q{which} to KV{which}"

    # -- Ulysses and kernels -----------------------------------------------------------------------

    def all_to_all(self, original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Heads for tokens: posted and waited for at once."""

        def all_to_all(x: Tensor) -> Tensor:
            ranks = dist.get_world_size(self._groups.ULYSSES_PG)
            size = x.nbytes * (ranks - 1) // ranks
            start = self._trace.clock()
            with self._trace.doing(Activity.WAIT, "all-to-all"):
                out = original(x)
            end = self._trace.clock()
            for way in (Activity.SEND, Activity.RECEIVE):
                self._trace.add(way, start, end, "all-to-all", channel="all-to-all", size=size)
            return out

        return all_to_all

    def get_attention_function(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The local kernel, however often it is called."""

        def get_attention_function(*args: Any, **kwargs: Any) -> Any:
            function = original(*args, **kwargs)

            def attend(*args: Any, **kwargs: Any) -> Any:
                with self._trace.doing(Activity.ATTEND, self._attended()):
                    return function(*args, **kwargs)

            return attend

        return get_attention_function

    # -- Ring --------------------------------------------------------------------------------------

    def ring_attn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A call of Ring, which begins with this rank's own keys."""

        def ring_attn(*args: Any, **kwargs: Any) -> Any:
            self._step, self._moving = 0, None
            return original(*args, **kwargs)

        return ring_attn

    def gather(self, original: Callable[[Any, Tensor], None]) -> Callable[[Any, Tensor], None]:
        """Keys of all ranks at once, at the first step."""

        def exchange_buffers(rotater: Any, buffer: Tensor) -> None:
            if rotater._aggregated_buffer is None:
                size = buffer.nbytes * (self._ranks - 1)
                self._moving = _Moving(
                    self._trace.clock(), "all-gather", self._keys(0), "KV of the others", None, None, size
                )
            original(rotater, buffer)

        return exchange_buffers

    def rotate(self, original: Callable[[Any, Tensor], None]) -> Callable[[Any, Tensor], None]:
        """Keys from each rank to the next."""

        def exchange_buffers(rotater: Any, buffer: Tensor) -> None:
            sent, received = self._keys(self._step), self._keys(self._step + 1)
            self._moving = _Moving(
                self._trace.clock(), "kv", sent, received, self._peer(1), self._peer(-1), buffer.nbytes
            )
            original(rotater, buffer)

        return exchange_buffers

    def next_buffer(self, original: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        """The keys of the next step, waited for where they are on their way."""

        def next_buffer(rotater: Any) -> Tensor:
            self._step += 1
            moving, self._moving = self._moving, None
            if moving is None:  # all are here
                return original(rotater)
            with self._trace.doing(Activity.WAIT, moving.received):
                out = original(rotater)
            end = self._trace.clock()
            for way, what, peer in (
                (Activity.SEND, moving.sent, moving.to),
                (Activity.RECEIVE, moving.received, moving.origin),
            ):
                self._trace.add(way, moving.start, end, what, channel=moving.channel, peer=peer, size=moving.size)
            return out

        return next_buffer

    def merge(self, original: Callable[..., None]) -> Callable[..., None]:
        """Folding a step's output into that of the steps before."""

        def step(merger: Any, *args: Any) -> None:
            if merger._out is None:  # nothing to fold into
                return original(merger, *args)
            with self._trace.doing(Activity.MERGE, str(o_block(self._rank, self._rank, heads=self._heads))):
                return original(merger, *args)

        return step
