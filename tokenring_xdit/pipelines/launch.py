"""Starts the ranks of a command with torch.distributed's launcher, and says which one failed and why."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import ConfigurationError, LaunchError
from tokenring_xdit.pipelines.environment import rank_environment
from tokenring_xdit.pipelines.jobs import Job, save_job
from tokenring_xdit.pipelines.worker import ERROR_FILE, JOB_FILE, RESULT_FILE

__all__ = ["run_folder", "run_job"]

_TRACEBACK_FILE = "rank{rank}.traceback.txt"

_RANK = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "runpy.run_module('tokenring_xdit.pipelines.worker', run_name='__main__')"
)
"""What a rank runs: Ctrl-C in a terminal reaches it too, while it imports, and it is the launcher that ends it."""

_SECONDS_TO_STOP = 10
"""How long the other ranks get to end after one has failed, before they are killed."""


@contextmanager
def run_folder() -> Iterator[Path]:
    """A temporary folder that the ranks of one command share; kept only where it holds a traceback."""
    folder = Path(tempfile.mkdtemp(prefix="tokenring-xdit-"))
    try:
        yield folder
    finally:
        if not any(folder.glob(_TRACEBACK_FILE.format(rank="*"))):
            shutil.rmtree(folder, ignore_errors=True)


def run_job(job: Job, ranks: int, folder: Path, *, port: int | None = None) -> Any:
    """Run a job on ``ranks`` processes of this machine and wait for it.

    Args:
        job: What to do.
        ranks: Number of processes.
        folder: Folder that they share, from :func:`run_folder`.
        port: TCP port where they meet; ``None`` takes a free one.

    Returns:
        What the job answered, read from JSON.

    Raises:
        ConfigurationError: The port is taken, or there are fewer GPUs than ranks.
        LaunchError: A rank failed; the message names it and its error. No process is left behind.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from tokenring_xdit.pipelines.loading import refuse_missing_gpus

    refuse_missing_gpus(ranks)
    if port is not None:
        _refuse_taken(port)
    save_job(job, folder / JOB_FILE)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for name, value in rank_environment(ranks).items():
        os.environ.setdefault(name, value)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"localhost:{port or 0}",
        local_addr="127.0.0.1",  # the host's own name need not resolve
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        shutdown_timeout=_SECONDS_TO_STOP,
    )
    try:
        elastic_launch(config, sys.executable)("-c", _RANK, str(folder))
    except ChildFailedError as failure:
        raise LaunchError(_explain(failure.failures, folder)) from failure
    except SignalException as interruption:
        if interruption.sigval is signal.SIGINT:
            raise KeyboardInterrupt from interruption
        raise LaunchError(f"stopped by {interruption.sigval.name}") from interruption
    result = folder / RESULT_FILE
    if not result.is_file():
        raise LaunchError("all ranks ended without an error, but none left a result")
    return json.loads(result.read_text())


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} cannot be used ({error}): name another with --port, or leave it out for a free one"
            ) from error


def _explain(failures: dict[int, Any], folder: Path) -> str:
    """Name the rank that failed first, and its error."""
    # A rank that was killed leaves no report, and the others only report that it is gone. Ranks that
    # the launcher ended, or that a watchdog aborted, are not the cause.
    consequences = {signal.SIGTERM, signal.SIGABRT}
    killed = {r: f for r, f in failures.items() if f.exitcode < 0 and -f.exitcode not in consequences}
    if killed:
        rank, process = min(killed.items(), key=lambda item: item[1].timestamp)
        name = signal.Signals(-process.exitcode).name
        return f"rank {rank} was killed by {name} (process {process.pid}); all ranks have ended"
    reports = []
    for path in folder.glob(ERROR_FILE.format(rank="*")):
        report = json.loads(path.read_text())
        reports.append((report["time"], int(path.name.removeprefix("rank").split(".")[0]), report))
    if reports:
        _, rank, report = min(reports, key=lambda entry: entry[:2])
        if report["traceback"] is None:  # refused, in words that need none
            return f"rank {rank} failed: {report['error']}"
        log = folder / _TRACEBACK_FILE.format(rank=rank)
        log.write_text(report["traceback"])
        return f"rank {rank} failed: {report['error']}\n(traceback: {log})"
    rank, process = min(failures.items(), key=lambda item: item[1].timestamp)
    return f"rank {rank} ended with exit code {process.exitcode} and left no report"
