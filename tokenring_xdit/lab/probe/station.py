"""A rank's share of a probe: sends and receives what an order says, over the transport that attention uses."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.devices import rank_device
from tokenring_xdit.lab.network import INIT_METHOD_VARIABLE, INTERFACE
from tokenring_xdit.lab.probe.orders import Describe, Description, Ping, SendMessages

__all__ = ["Station", "join_world"]

_PATIENCE = timedelta(minutes=5)  # for a rank that does not answer
_PING_BYTES = 8
_PAUSE = 0.01  # seconds between a barrier and what is measured: on wires that are full some ranks would leave it late

Arrivals = dict[int, list[float]]
"""By index of the transfer, seconds at which its messages had arrived."""


def join_world() -> torch.device:
    """Meet the other ranks; returns this rank's device. In an emulated network that is the CPU."""
    device = torch.device("cpu")
    if torch.cuda.is_available() and os.environ.get("GLOO_SOCKET_IFNAME") != INTERFACE:
        device = rank_device()
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=os.environ.get(INIT_METHOD_VARIABLE, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
    )
    return device


class Station:
    """One rank. All ranks carry out the same orders, one after the other.

    Args:
        device: Where the messages lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._rank = device, dist.get_rank()
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def carry_out(self, order: Any) -> Any:
        """Do what an order says; returns this rank's answer."""
        if isinstance(order, SendMessages):
            return self._exchange(order) if self._device.type == "cuda" else self._stream(order)
        if isinstance(order, Ping):
            return self._ping(order)
        assert isinstance(order, Describe)
        cuda = self._device.type == "cuda"
        return Description(
            place=socket.gethostname(),
            device=torch.cuda.get_device_name(self._device) if cuda else "cpu",
            backend=dist.get_backend(),
            torch=str(torch.__version__),
        )

    def _buffer(self, use: str, peer: int, size: int) -> Tensor:
        """At least this many bytes that stay from order to order, as buffers of attention do."""
        key = use, peer
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.zeros(size, dtype=torch.uint8, device=self._device)
        return self._buffers[key][:size]

    def _mine(self, order: SendMessages) -> tuple[list[tuple[int, int, Tensor]], list[tuple[int, Tensor]]]:
        """What this rank receives (index of the transfer, source, buffer) and sends (destination, buffer)."""
        both = list(zip(order.transfers, order.sizes, strict=True))
        receives = [
            (index, source, self._buffer("receive", source, size))
            for index, ((source, destination), size) in enumerate(both)
            if destination == self._rank
        ]
        sends = [
            (destination, self._buffer("send", destination, size))
            for (source, destination), size in both
            if source == self._rank
        ]
        return receives, sends

    def _stream(self, order: SendMessages) -> Arrivals:
        """All messages posted at once, receives first; a thread for each source notes when they come."""
        receives, sends = self._mine(order)
        expected: dict[int, list[Any]] = {
            index: [dist.irecv(buffer, source) for _ in range(order.messages)] for index, source, buffer in receives
        }

        def await_all(incoming: list[Any]) -> list[float]:
            times = []
            for work in incoming:
                work.wait()
                times.append(time.perf_counter())
            return times

        with ThreadPoolExecutor(max(1, len(expected))) as threads:
            noted = [threads.submit(await_all, incoming) for incoming in expected.values()]
            dist.barrier()
            start = time.perf_counter() + _PAUSE
            time.sleep(_PAUSE)
            works: list[Any] = [dist.isend(buffer, peer) for _ in range(order.messages) for peer, buffer in sends]
            arrivals = {
                index: [max(0.0, moment - start) for moment in times.result()]
                for index, times in zip(expected, noted, strict=True)
            }
        for work in works:
            work.wait()
        dist.barrier()
        return arrivals

    def _exchange(self, order: SendMessages) -> Arrivals:
        """A batch for each message, as attention posts them on NCCL."""
        receives, sends = self._mine(order)
        event: Any = torch.cuda.Event  # torch has no types for it
        events = [event(enable_timing=True) for _ in range(order.messages + 1)]
        dist.barrier(device_ids=[self._device.index])
        torch.cuda.synchronize()
        events[0].record()
        for arrived in events[1:]:
            operations = [dist.P2POp(dist.irecv, buffer, source) for _, source, buffer in receives]
            operations += [dist.P2POp(dist.isend, buffer, destination) for destination, buffer in sends]
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait()
            arrived.record()
        torch.cuda.synchronize()
        times = [events[0].elapsed_time(arrived) / 1e3 for arrived in events[1:]]
        return {index: times for index, *_ in receives}

    def _ping(self, order: Ping) -> list[float] | None:
        dist.barrier(device_ids=[self._device.index] if self._device.type == "cuda" else None)
        if self._rank not in order.pair:
            return None
        first = self._rank == order.pair[0]
        peer = order.pair[1] if first else order.pair[0]
        there, back = self._buffer("send", peer, _PING_BYTES), self._buffer("receive", peer, _PING_BYTES)
        times = []
        for _ in range(order.rounds):
            start = time.perf_counter()
            for sends in (first, not first):
                if sends:
                    dist.send(there, peer)
                else:
                    dist.recv(back, peer)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 2)
        return times if first else None
