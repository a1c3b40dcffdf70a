"""What each rank of a probe serves: it sends and receives as a command says, over the transport of attention."""

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
from tokenring_xdit.probe.commands import Arrivals, Describe, Description, OneWay, Ping, SendMessages
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.world import join_world

__all__ = ["MESSAGES", "ProbeRank", "commands"]

MESSAGES = (Arrivals, Describe, Description, OneWay, Ping, SendMessages)
"""Commands and answers."""

_PATIENCE = timedelta(minutes=5)  # for a rank that does not answer
_PING_BYTES = 8
_PAUSE = 0.01  # seconds between a barrier and what is measured: on links that are full some ranks would leave it late


def commands(mailbox: Mailbox) -> Commands:
    """Join the other ranks."""
    device = rank_device()
    join_world(device, _PATIENCE, mailbox.store)
    rank = ProbeRank(device)
    return {SendMessages: rank.send_messages, Ping: rank.ping, Describe: rank.describe}


class ProbeRank:
    """One rank. All ranks carry out the same commands, one after the other.

    Args:
        device: Where the messages lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._rank = device, dist.get_rank()
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def describe(self, command: Describe) -> Description:
        """Say where this rank is."""
        cuda = self._device.type == "cuda"
        return Description(
            place=socket.gethostname(),
            node=int(os.environ.get("GROUP_RANK", "0")),
            device=torch.cuda.get_device_name(self._device) if cuda else "cpu",
            backend=dist.get_backend(),
            torch=str(torch.__version__),
        )

    def send_messages(self, command: SendMessages) -> Arrivals:
        """Send and receive what concerns this rank."""
        return Arrivals(self._exchange(command) if self._device.type == "cuda" else self._stream(command))

    def _buffer(self, use: str, peer: int, size: int) -> Tensor:
        """At least this many bytes that stay from command to command, as buffers of attention do."""
        key = use, peer
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.zeros(size, dtype=torch.uint8, device=self._device)
        return self._buffers[key][:size]

    def _mine(self, command: SendMessages) -> tuple[list[tuple[int, int, Tensor]], list[tuple[int, Tensor]]]:
        """What this rank receives (index of the transfer, source, buffer) and sends (destination, buffer)."""
        both = list(zip(command.transfers, command.sizes, strict=True))
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

    def _stream(self, command: SendMessages) -> dict[int, list[float]]:
        """All messages posted at once, receives first; a thread for each source notes when they come."""
        receives, sends = self._mine(command)
        expected: dict[int, list[Any]] = {
            index: [dist.irecv(buffer, source) for _ in range(command.messages)] for index, source, buffer in receives
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
            works: list[Any] = [dist.isend(buffer, peer) for _ in range(command.messages) for peer, buffer in sends]
            arrivals = {
                index: [max(0.0, moment - start) for moment in times.result()]
                for index, times in zip(expected, noted, strict=True)
            }
        for work in works:
            work.wait()
        dist.barrier()
        return arrivals

    def _exchange(self, command: SendMessages) -> dict[int, list[float]]:
        """A batch for each message, as attention posts them on NCCL."""
        receives, sends = self._mine(command)
        event: Any = torch.cuda.Event  # torch has no types for it
        events = [event(enable_timing=True) for _ in range(command.messages + 1)]
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

    def ping(self, command: Ping) -> OneWay | None:
        """Send a few bytes to and fro, as one of the pair."""
        dist.barrier(device_ids=[self._device.index] if self._device.type == "cuda" else None)
        if self._rank not in command.pair:
            return None
        first = self._rank == command.pair[0]
        peer = command.pair[1] if first else command.pair[0]
        there, back = self._buffer("send", peer, _PING_BYTES), self._buffer("receive", peer, _PING_BYTES)
        times = []
        for _ in range(command.rounds):
            start = time.perf_counter()
            for sends in (first, not first):
                if sends:
                    dist.send(there, peer)
                else:
                    dist.recv(back, peer)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 2)
        return OneWay(times) if first else None
