"""What each rank of a command runs, with the folder of the run as its argument.

The folder holds the job; the answer, the pictures and, where a rank fails, its error go there too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.integrations.xfuser import ShardedPipeline, XfuserState, count_traffic
from tokenring_xdit.pipelines.environment import quieten
from tokenring_xdit.pipelines.flux import (
    Generation,
    decode,
    generate,
    load_flux,
    share_latents,
)
from tokenring_xdit.pipelines.jobs import CompareJob, GenerateJob, Job, RunJob, load_job
from tokenring_xdit.pipelines.loading import rank_device
from tokenring_xdit.pipelines.run_rank import run_on_rank

__all__ = ["ERROR_FILE", "JOB_FILE", "RESULT_FILE", "SINGLE", "joined_world", "main", "picture_file"]

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
ERROR_FILE = "rank{rank}.error.json"
SINGLE = "one rank"


def picture_file(folder: Path, strategy: str) -> Path:
    """Where a comparison leaves the picture of a strategy; its difference to the reference lies beside it as .npy."""
    return folder / f"{strategy.replace(' ', '-')}.png"


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
    image = decode(pipe, generation.latents, job.picture)
    image.save(job.output)
    return {"output": job.output, "seconds": seconds, "ms_per_step": _median(generation)}


def _compare(job: CompareJob, device: torch.device, folder: Path) -> dict[str, Any] | None:
    rank = dist.get_rank()
    running = [s for s in job.strategies if s.refusal is None]
    total = (job.rounds + 1) * (len(running) + 1)
    pipe = load_flux(job.picture, device)
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=total, desc="comparing", disable=rank != 0, leave=False) as bar:
        reference, times = _single(pipe, job, bar)
        if rank == 0:
            results[SINGLE] = {"step_ms": times}
            expected = decode(pipe, reference, job.picture)
            expected.save(picture_file(folder, SINGLE))
        states = {s.name: XfuserState(s.degrees, job.picture.model, one_of_several=True) for s in running}
        sharded = ShardedPipeline(pipe, next(iter(states.values()))) if states else None
        for turn in range(job.rounds + 1):
            for strategy in running:
                assert sharded is not None
                sharded.use(states[strategy.name])
                with count_traffic() as traffic:
                    generation = generate(sharded, job.picture)
                bar.update()
                if turn == 0:  # the warm-up, which is looked at instead of timed
                    latents = share_latents(generation.latents, reference)
                    sent: list[Any] = [None] * dist.get_world_size()
                    dist.all_gather_object(sent, traffic.bytes)
                    if rank == 0:
                        drawn = decode(pipe, latents, job.picture)
                        path = picture_file(folder, strategy.name)
                        drawn.save(path)
                        np.save(path.with_suffix(".npy"), np.abs(drawn.pixels - expected.pixels))
                        results[strategy.name] = {
                            "step_ms": [],
                            "bytes_sent_per_rank": sent,
                            "max_relative_difference": _difference(latents, reference),
                        }
                elif rank == 0:
                    results[strategy.name]["step_ms"] += generation.step_ms
    return results if rank == 0 else None


def _single(pipe: Any, job: CompareJob, bar: tqdm) -> tuple[Tensor, list[float]]:
    """The reference, on rank 0 while the others wait; every rank gets its latents."""
    times: list[float] = []
    latents: Tensor | None = None
    for turn in range(job.rounds + 1):
        if dist.get_rank() == 0:
            generation = generate(pipe, job.picture)
            latents = generation.latents
            times += generation.step_ms if turn else ()
        bar.update()
    shape = [list(latents.shape) if latents is not None else None]
    dist.broadcast_object_list(shape, 0)
    if latents is None:
        assert shape[0] is not None
        latents = torch.empty(shape[0], dtype=getattr(torch, job.picture.dtype), device=pipe.device)
    dist.broadcast(latents, 0)
    return latents, times


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference of two latents, relative to the largest expected value."""
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def _median(generation: Generation) -> float | None:
    return statistics.median(generation.step_ms) if generation.step_ms else None


def _die_with_parent() -> None:
    """Ask Linux to end this rank when the command that started it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def joined_world() -> Iterator[torch.device]:
    """Meet the other ranks as the environment says, with this rank's device; part in the end."""
    quieten()
    device = rank_device()
    # Ranks wait for rank 0 while it draws or decodes alone, which may take long without a GPU.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    yield device
    dist.destroy_process_group()  # not after an error: the others may not answer


def _do(job: Job, device: torch.device, folder: Path) -> Any:
    if isinstance(job, RunJob):
        return run_on_rank(job.config)
    return _generate(job, device) if isinstance(job, GenerateJob) else _compare(job, device, folder)


def main(folder: Path) -> None:
    """Run the job in ``folder`` as one rank of the world that the environment describes."""
    _die_with_parent()
    rank = int(os.environ["RANK"])
    try:
        job = load_job(folder / JOB_FILE)
        with joined_world() as device:
            result = _do(job, device, folder)
            if result is not None:
                (folder / RESULT_FILE).write_text(json.dumps(result))
    except Exception as error:
        report = {
            "time": time.time(),
            "error": str(error) if isinstance(error, TokenRingError) else f"{type(error).__name__}: {error}",
            "traceback": None if isinstance(error, TokenRingError) else traceback.format_exc(),
        }
        (folder / ERROR_FILE.format(rank=rank)).write_text(json.dumps(report))
        os._exit(1)  # without waiting for threads of a broken process group


if __name__ == "__main__":
    main(Path(sys.argv[1]))
