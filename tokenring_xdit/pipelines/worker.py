"""What each rank of ``run``, ``generate`` and ``compare`` does; see :mod:`tokenring_xdit.workers.loop`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from tokenring_xdit.attention import exchange
from tokenring_xdit.devices import rank_device
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.hosts.xfuser import ShardedPipeline, XfuserState, count_traffic
from tokenring_xdit.pipelines.environment import quieten
from tokenring_xdit.pipelines.flux import (
    Generation,
    decode,
    generate,
    load_flux,
    share_latents,
)
from tokenring_xdit.pipelines.jobs import SINGLE, CompareJob, Found, GenerateJob, Job, RunJob
from tokenring_xdit.pipelines.request import save
from tokenring_xdit.pipelines.run_rank import run_on_rank
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.world import join_world

__all__ = ["commands", "joined_world"]

_PATIENCE = timedelta(hours=1)
"""For a rank that does not answer, and has neither died nor stopped: it may load, decode or save something large."""

_ALONE = timedelta(days=365)
"""For what rank 0 does alone, without a limit: the process that started the ranks watches whether it lives."""


def _generate(job: GenerateJob, device: torch.device) -> dict[str, Any] | None:
    state = XfuserState(job.degrees, job.picture.model)
    pipe = load_flux(job.picture, device)
    sharded = ShardedPipeline(pipe, state)
    last = dist.get_rank() == dist.get_world_size() - 1  # xfuser gives the picture to the last rank
    start = time.perf_counter()
    generation = generate(sharded, job.picture, progress=last)
    seconds = time.perf_counter() - start
    if generation.latents is None:
        return None
    save(decode(pipe, generation.latents, job.picture).picture, job.output)
    return {"output": job.output, "seconds": seconds, "ms_per_step": _median(generation)}


def _compare(job: CompareJob, device: torch.device) -> dict[str, Found] | None:
    rank = dist.get_rank()
    running = [s for s in job.candidates if s.refusal is None]
    total = (job.rounds + 1) * (len(running) + 1)
    pipe = load_flux(job.picture, device)
    results: dict[str, Found] = {}
    with tqdm(total=total, desc="comparing", disable=rank != 0, leave=False) as bar:
        reference, times = _single(pipe, job, bar)
        if rank == 0:
            expected = decode(pipe, reference, job.picture)
            results[SINGLE] = Found({"step_ms": times}, expected)
        states = {s.name: XfuserState(s.degrees, job.picture.model, one_of_several=True) for s in running}
        sharded = ShardedPipeline(pipe, next(iter(states.values()))) if states else None
        for turn in range(job.rounds + 1):
            for candidate in running:
                assert sharded is not None
                sharded.use(states[candidate.name])
                with count_traffic() as traffic:
                    generation = generate(sharded, job.picture)
                bar.update()
                if turn == 0:  # the warm-up, which is looked at instead of timed
                    latents = share_latents(generation.latents, reference)
                    sent = exchange(None, traffic.bytes, "the bytes that were sent")
                    if rank == 0:
                        drawn = decode(pipe, latents, job.picture)
                        figures: dict[str, Any] = {
                            "step_ms": [],
                            "bytes_sent_per_rank": sent,
                            "max_relative_difference": _difference(latents, reference),
                        }
                        results[candidate.name] = Found(figures, drawn, np.abs(drawn.pixels - expected.pixels))
                elif rank == 0:
                    results[candidate.name].figures["step_ms"] += generation.step_ms
    return results if rank == 0 else None


def _single(pipe: Any, job: CompareJob, bar: tqdm) -> tuple[Tensor, list[float]]:
    """The reference, on rank 0 while the others wait; every rank gets its latents."""
    waiting = dist.new_group(backend="gloo", timeout=_ALONE)
    times: list[float] = []
    latents: Tensor | None = None
    for turn in range(job.rounds + 1):
        if dist.get_rank() == 0:
            generation = generate(pipe, job.picture)
            latents = generation.latents
            times += generation.step_ms if turn else ()
        bar.update()
    dist.barrier(group=waiting)
    shape = torch.tensor((0, 0, 0) if latents is None else latents.shape, device=pipe.device)
    dist.broadcast(shape, 0)
    if latents is None:
        latents = torch.empty(shape.tolist(), dtype=torch_dtype(job.picture.dtype), device=pipe.device)
    dist.broadcast(latents, 0)
    return latents, times


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference of two latents, relative to the largest expected value."""
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def _median(generation: Generation) -> float | None:
    return statistics.median(generation.step_ms) if generation.step_ms else None


@contextmanager
def joined_world() -> Iterator[torch.device]:
    """Join the other ranks, with this rank's device, and leave them in the end.

    They are found where the process that started them says, or else as ``torchrun`` says.
    """
    quieten()
    device = rank_device()
    join_world(device, _PATIENCE)
    yield device
    dist.destroy_process_group()  # not after an error: the others may not answer


def commands(mailbox: Mailbox) -> Commands:
    """Do a job as one rank of the world that the environment describes."""

    def do(job: Job) -> Any:
        with joined_world() as device:
            if isinstance(job, RunJob):
                return run_on_rank(job.config)
            return _generate(job, device) if isinstance(job, GenerateJob) else _compare(job, device)

    return dict.fromkeys((GenerateJob, CompareJob, RunJob), do)
