"""What a run can be for, and where each kind is described and carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import shown
from tokenring_xdit.pipelines.choice import AUTO_TASKS
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.text_run import TextRunConfig

__all__ = ["TASKS", "AnyRun", "program_of", "read_run", "run_as_rank"]

AnyRun = RunConfig | TextRunConfig

TASKS: dict[str, type[RunConfig] | type[TextRunConfig]] = {
    "picture": RunConfig,
    "text": TextRunConfig,
    **dict.fromkeys(AUTO_TASKS, RunConfig),
}
"""Keys of a config, by its key ``task``."""


def read_run(
    path: Path | None, overrides: Sequence[str] = (), inspect: Callable[[AnyRun], list[str]] | None = None
) -> AnyRun:
    """Read and check what a run is; the arguments are those of :func:`tokenring_xdit.config.read_config`."""
    config: AnyRun = read_config(_schema, path, overrides, inspect)
    return config


def program_of(config: AnyRun) -> str:
    """What ranks that are started for a run serve; see :func:`tokenring_xdit.workers.loop.serve`."""
    return f"tokenring_xdit.pipelines.{'text_run_rank' if isinstance(config, TextRunConfig) else 'run_rank'}"


def run_as_rank(config: AnyRun) -> list[dict[str, Any]] | None:
    """Carry a run out as one of the ranks that ``torchrun`` started; returns what was written, on the first one."""
    if isinstance(config, TextRunConfig):
        from tokenring_xdit.pipelines.text_run_rank import run_text_on_rank

        return run_text_on_rank(config)
    from tokenring_xdit.pipelines.run_rank import joined_world, run_on_rank

    with joined_world():
        return run_on_rank(config)


def _schema(values: Mapping[str, Any]) -> Any:
    task = values.get("task", "picture")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigurationError(f"task: {shown(task)} is not allowed. {nearest(str(task), TASKS)}")
    return TASKS[task]
