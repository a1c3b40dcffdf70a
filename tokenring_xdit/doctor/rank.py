"""What each rank of a checkup serves: calls of attention over the real transport; see :mod:`..workers.loop`."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.devices import rank_device
from tokenring_xdit.doctor.commands import CheckCall, TimeCall, TimeMessages, TinyCall
from tokenring_xdit.doctor.reference import difference, made, softmax64
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import AgreementError, ConfigurationError, KernelError, ScheduleError, UnsupportedError
from tokenring_xdit.probe.commands import Describe, Ping, SendMessages
from tokenring_xdit.probe.rank import ProbeRank
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.world import join_world

__all__ = ["DoctorRank", "calls_of", "commands"]

_PEAK = 2.0
_CALLS = 2
"""Calls of each problem, with other numbers each: the second finds the buffers of the first."""

_REFUSALS = (AgreementError, ConfigurationError, KernelError, ScheduleError, UnsupportedError)
"""What all ranks raise alike, before anything is sent."""


def commands(mailbox: Mailbox) -> Commands:
    """Join the other ranks."""
    device = rank_device()
    join_world(device, timedelta(seconds=float(os.environ[AGREEMENT_TIMEOUT_VARIABLE])), mailbox.store)
    return calls_of(DoctorRank(device), ProbeRank(device))


def calls_of(rank: DoctorRank, probing: ProbeRank) -> dict[type, Callable[[Any], Any]]:
    """What a rank of a checkup can be asked for."""
    return {
        CheckCall: rank.check,
        TimeCall: rank.time,
        TimeMessages: rank.time_messages,
        Describe: probing.describe,
        Ping: probing.ping,
        SendMessages: probing.send_messages,
    }


class DoctorRank:
    """One rank. All ranks carry out the same commands, one after the other.

    Args:
        device: Where to compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._rank = device, dist.get_rank()

    @torch.inference_mode()
    def check(self, command: CheckCall) -> float | str:
        """Compare calls with softmax in fp64; NaN is infinitely wrong."""
        worst = 0.0
        for seed in range(_CALLS):
            q, k, v, text = self._tensors(command, seed)
            first = sum(command.lengths[: self._rank])
            own = slice(first, first + command.lengths[self._rank])
            shard = [t[:, :, own].to(self._device) for t in (q, k, v)]
            try:
                out, lse = token_ring_attention(
                    *shard,
                    schedule=command.schedule,
                    causal=command.causal,
                    joint_kv=tuple(t.to(self._device) for t in text) if text else None,  # type: ignore[arg-type]
                )
            except _REFUSALS as error:
                return str(error)
            if text:
                k, v = (torch.cat([whole, joint], dim=2) for whole, joint in zip((k, v), text, strict=True))
            expected, log_sum = softmax64(q[:, :, own], k, v, first if command.causal else None)
            for off in (difference(out, expected), difference(lse, log_sum)):
                worst = max(worst, math.inf if math.isnan(off) else off)
        return worst

    def _tensors(self, command: CheckCall, seed: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Queries, keys and values of all ranks, and text keys and values, rounded to the dtype."""
        dtype, tokens = torch_dtype(command.dtype), sum(command.lengths)

        def tensor(number: int, heads: int, length: int, peak: float) -> Tensor:
            return made(100 * seed + number, (1, heads, length, command.head_dim), peak).to(dtype)

        q = tensor(0, command.heads, tokens, _PEAK)
        k, v = tensor(1, command.kv_heads, tokens, _PEAK), tensor(2, command.kv_heads, tokens, 1.0)
        text = (tensor(3, command.kv_heads, command.text, _PEAK), tensor(4, command.kv_heads, command.text, 1.0))
        return q, k, v, text if command.text else ()

    @torch.inference_mode()
    def time(self, command: TimeCall) -> TinyCall | str:
        """Time calls that ranks have agreed on before."""
        shape = (1, command.heads, command.tokens, command.head_dim)
        q, k, v = (made(seed, shape, 1.0).to(torch_dtype(command.dtype)).to(self._device) for seed in range(3))
        host, whole = [], []
        try:
            for _ in range(command.rounds + 1):
                self._barrier()
                start = time.perf_counter()
                token_ring_attention(q, k, v, schedule=command.schedule, cache_key=("doctor", command.tokens))
                host.append(time.perf_counter() - start)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                whole.append(time.perf_counter() - start)
        except _REFUSALS as error:
            return str(error)
        return TinyCall(statistics.median(host[1:]), statistics.median(whole[1:]))

    def time_messages(self, command: TimeMessages) -> float | None:
        """Seconds of a message between ranks 0 and 1, there and back in turn or both ways at once."""
        self._barrier()
        if self._rank > 1:
            return None
        peer = 1 - self._rank
        out, into = (torch.zeros(command.size, dtype=torch.uint8, device=self._device) for _ in range(2))
        send, receive = dist.P2POp(dist.isend, out, peer), dist.P2POp(dist.irecv, into, peer)
        turns = [[send], [receive]] if self._rank == 0 else [[receive], [send]]
        batches = [[receive, send]] if command.both_ways else turns
        found = []
        for _ in range(command.rounds + 1):
            start = time.perf_counter()
            for batch in batches * command.messages:
                for work in dist.batch_isend_irecv(batch):
                    work.wait()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            found.append((time.perf_counter() - start) / command.messages / len(batches))
        return statistics.median(found[1:])

    def _barrier(self) -> None:
        dist.barrier(device_ids=[self._device.index] if self._device.type == "cuda" else None)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
