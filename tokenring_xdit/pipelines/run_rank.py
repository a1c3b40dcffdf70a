"""One rank of a run that a config describes: load the pipeline, make it parallel, draw all prompts.

Ranks of this machine carry out :func:`commands`, see :mod:`tokenring_xdit.workers.loop`; torchrun's with the command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tokenring_xdit.devices import default_dtype, rank_device
from tokenring_xdit.hosts.calls import Output
from tokenring_xdit.hosts.parallelize import engine_host, parallelize
from tokenring_xdit.hosts.xfuser import graph_reports
from tokenring_xdit.pipelines.environment import quieten
from tokenring_xdit.pipelines.loading import load_pipeline
from tokenring_xdit.pipelines.picture_files import read_files
from tokenring_xdit.pipelines.request import call_arguments, media_of, save
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.run_agreement import agree_on_config
from tokenring_xdit.pipelines.run_model import files_for, pictures_written, request_of
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.world import join_world

__all__ = ["commands", "joined_world", "run_on_rank"]

_PATIENCE = timedelta(hours=1)
"""For a rank that does not answer, and has neither died nor stopped: it may load, decode or save something large."""


def commands(mailbox: Mailbox) -> Commands:
    """Draw what a config says, as one rank of the world that the environment describes."""

    def draw(config: RunConfig) -> Any:
        with joined_world():
            return run_on_rank(config)

    return {RunConfig: draw}


@contextmanager
def joined_world() -> Iterator[None]:
    """Join the other ranks, and leave them in the end.

    They are found where the process that started them says, or else as ``torchrun`` says.
    """
    quieten()
    join_world(rank_device(), _PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: the others may not answer


def run_on_rank(config: RunConfig) -> list[dict[str, Any]] | None:
    """Draw all prompts of a config together with the other ranks; every rank calls it.

    Args:
        config: The same on all ranks, which is checked.

    Returns:
        What was written, on rank 0: ``output``, ``prompt``, ``seed`` and the ``seconds`` of its batch, for
        each prompt.

    Raises:
        AgreementError: The ranks were given different configs.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    if dist.is_initialized():
        agree_on_config(config.model_dump(mode="json") | {"prompts": config.prompts()})
    pipe = load_pipeline(config.model, config.dtype or default_dtype(), rank_device(), config.choice)
    pipe.set_progress_bar_config(disable=not first, desc="denoising")
    kind = type(pipe)
    outputs, prompts = pictures_written(config), config.prompts()
    if dist.is_initialized():
        parallelize(
            pipe,
            host=engine_host(kind.__name__),
            tokenring_degree=config.tokenring_degree,
            ulysses_degree=config.ulysses_degree,
            schedule=config.schedule,
            attention_backend=config.attention_backend,
            output=Output.FIRST_RANK,
            cuda_graphs=config.cuda_graphs,
        )
    pictures = read_files(files_for(config, kind))
    written = []
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts[start : start + config.batch_size]
        began = time.perf_counter()
        result = pipe(**call_arguments(kind, request_of(config, start, batch, kind, pictures)))
        seconds = time.perf_counter() - began
        if not first:
            continue
        for offset, medium in enumerate(media_of(result)):
            path = outputs[start + offset]
            path.parent.mkdir(parents=True, exist_ok=True)
            save(medium, path, frames_per_second=config.fps)
            written.append(_entry(path, batch[offset], config.seed + start + offset, seconds))
    for name, report in graph_reports(pipe).items():
        if first:
            print(f"cuda_graphs: {name}: {report}", file=sys.stderr)
    return written if first else None


def _entry(path: Path, prompt: str, seed: int, seconds: float) -> dict[str, Any]:
    return {"output": str(path), "prompt": prompt, "seed": seed, "seconds": seconds}
