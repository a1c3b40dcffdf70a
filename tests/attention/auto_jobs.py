"""What the worker ranks run in the tests of ``schedule="auto"``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import api, auto, token_ring_attention
from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE, kept_topology
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.planning import Machine
from tokenring_xdit.schedule import VerifiedSchedule


@contextmanager
def knowing(topology: str | None, cache: str) -> Iterator[None]:
    """With a topology in the environment, or none, and an empty place for kept ones."""
    values = {"XDG_CACHE_HOME": cache, **({} if topology is None else {TOPOLOGY_VARIABLE: topology})}
    with mock.patch.dict(os.environ, values):
        if topology is None:
            os.environ.pop(TOPOLOGY_VARIABLE, None)
        yield


@contextmanager
def noting() -> Iterator[list[VerifiedSchedule]]:
    """The schedules that are run meanwhile, by the real executor."""
    ran: list[VerifiedSchedule] = []

    def execute(verified: VerifiedSchedule, *args: Any) -> Any:
        ran.append(verified)
        return original(verified, *args)

    original = api.execute
    with mock.patch.object(api, "execute", execute):
        yield ran


def tensors(length: int, batch: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """The whole sequence, the same on every rank, and this rank's shard."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(length)
    whole = [torch.randn(batch, 4, length * ranks, 8, generator=generator) for _ in range(3)]
    return whole, [t[:, :, rank * length : (rank + 1) * length] for t in whole]


def error_of(out: Tensor, whole: list[Tensor], length: int, visible: Tensor | None = None) -> float:
    expected, _ = softmax_attention(*whole, visible=visible)
    start = dist.get_rank() * length
    return relative_error(out, expected[:, :, start : start + length])


def calls(
    schedule: str, topology: str | None, cache: str, asked: list[tuple[int, dict[str, Any]]]
) -> list[tuple[float, str]]:
    """Error and schedule of each of several calls."""
    found = []
    with knowing(topology, cache), noting() as ran:
        for length, options in asked:
            whole, own = tensors(length)
            out, _ = token_ring_attention(*own, schedule=schedule, **options)
            positions = torch.arange(whole[0].shape[2])
            visible = positions[:, None] >= positions if options.get("causal") else None
            found.append((error_of(out, whole, length, visible), ran[-1].schedule.name))
    return found


GPU = Machine.of_gpus(6e14)


def launched_and_replayed(topology: str, cache: str, length: int) -> list[tuple[float, str]]:
    """Error and schedule of calls that are launched and of some that will be replayed, as if ranks had GPUs."""
    found = []
    with mock.patch.object(auto, "calibrate", return_value=GPU):
        for _ in range(2):
            found += calls("auto", topology, cache, [(length, {})])
            with auto.planned_for_replays():
                found += calls("auto", topology, cache, [(length, {})])
    return found


def with_kept_topology(cache: str) -> list[str]:
    with knowing(None, cache):
        path = kept_topology(dist.get_world_size())
        if dist.get_rank() == 0:
            path.parent.mkdir(parents=True)
            path.write_text("{hosts: 2, links: [{between: [h0, h1], rate: 100mbit}]}")
        dist.barrier()
        return [name for _, name in calls("auto", None, cache, [(24, {})] * 4)]


def refused_then_fine(cache: str) -> float:
    try:
        calls("auto", "no-such-machine", cache, [(24, {})])
    except ConfigurationError:
        return calls("auto", "mesh:2:100mbit", cache, [(24, {})])[0][0]
    raise AssertionError("a topology that does not exist was taken")


def ragged_on_one_rank(cache: str) -> tuple[float, bool]:
    """The last rank's keys are hidden differently in the two items of the batch; the others hide none."""
    length, rank, ranks = 24, dist.get_rank(), dist.get_world_size()
    whole, own = tensors(length, batch=2)
    real = torch.ones(2, length * ranks, dtype=torch.bool)
    real[1, -5:] = False
    mask = real[:, rank * length : (rank + 1) * length] if rank == ranks - 1 else None
    with knowing("ring:3:100mbit", cache), noting() as ran:
        out, _ = token_ring_attention(*own, schedule="auto", key_mask=mask)
    return error_of(out, whole, length, real[:, None, None]), ran[-1].keys_stay_whole


def ragged_between_nodes(topology: str | None, cache: str) -> None:
    """All ranks' keys are hidden differently in the two items of the batch, and nodes hand keys on."""
    _, own = tensors(24, batch=2)
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[1, -5:] = False
    with knowing(topology, cache):
        token_ring_attention(*own, schedule="auto:nodes=2", key_mask=mask)


def without_memory(cache: str) -> None:
    """The first rank, which decides, fails in a way that nobody thought of."""
    with mock.patch.object(auto, "calibrate", side_effect=RuntimeError("out of memory")):
        calls("auto", "mesh:3:100mbit", cache, [(24, {})])


def without_a_home() -> str:
    values = {name: value for name, value in os.environ.items() if name not in {"XDG_CACHE_HOME", TOPOLOGY_VARIABLE}}
    homeless = mock.patch.object(auto.Path, "home", side_effect=RuntimeError("no home directory"))
    with mock.patch.dict(os.environ, values, clear=True), homeless, noting() as ran:
        token_ring_attention(*tensors(24)[1], schedule="auto")
    return ran[-1].schedule.name


def said(cache: str) -> list[str]:
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, keeper = logging.getLogger("tokenring_xdit.attention.auto"), Keeper()
    logger.addHandler(keeper)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        calls("auto", "mesh:2:100mbit", cache, [(24, {})] * 3)
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(level)
    return lines
