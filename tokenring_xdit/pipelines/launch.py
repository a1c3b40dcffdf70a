"""Runs a job on ranks of this machine."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.devices import refuse_missing_gpus
from tokenring_xdit.pipelines.jobs import Job
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["run_job"]


def run_job(job: Job, ranks: int) -> Any:
    """Run a job on ``ranks`` processes of this machine and wait for it, as long as it takes.

    Args:
        job: What to do.
        ranks: Number of processes.

    Returns:
        What the job answered.

    Raises:
        ConfigurationError: A library is missing, or too old or new; or there are fewer GPUs than ranks.
        LaunchError: A rank failed, died or is stopped; the message names it and its error. No process is left behind.
    """
    check_versions()
    refuse_missing_gpus(ranks)
    with WorkerPool("tokenring_xdit.pipelines.worker", ranks, quiet=False) as pool:
        answers = pool.ask(job)
    result = next((answer for answer in answers if answer is not None), None)
    assert result is not None, "a job has an answer"
    return result
