"""``tokenring-xdit run``: pictures or videos as a YAML config says, on one rank or several."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.config import read_config
from tokenring_xdit.devices import refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError, LaunchError, TokenRingError
from tokenring_xdit.pipelines.jobs import RunJob
from tokenring_xdit.pipelines.launch import run_job
from tokenring_xdit.pipelines.run import RunConfig, inspect_model
from tokenring_xdit.pipelines.run_rank import run_on_rank
from tokenring_xdit.pipelines.worker import joined_world

__all__ = ["run_command"]


def run_command(args: argparse.Namespace) -> None:
    """Draw what a config says."""
    config = read_config(RunConfig, args.config, args.overrides, _mistakes_here)
    if os.environ.get("RANK", "0") == "0":
        for path in config.outputs():
            refuse_unwritable(path, f"output {path}")
    written = _as_rank(config) if "RANK" in os.environ else _start_ranks(config)
    if written is None:
        return
    if args.json:
        print(json.dumps({"ranks": config.degrees.ranks, "written": written}))
        return
    ranks = f"{config.degrees.ranks} rank{'s' * (config.degrees.ranks > 1)}"
    for entry in written:
        print(f"wrote {entry['output']} ({ranks}, {entry['seconds']:.1f} s)")


def _mistakes_here(config: RunConfig) -> list[str]:
    """What is wrong with the model, and on this machine; ``config check`` may run on another one."""
    found = inspect_model(config)
    checks = [config.attention_backend.refuse_missing]
    if "RANK" not in os.environ:
        checks.append(check_versions)
        checks.append(lambda: refuse_missing_gpus(config.degrees.ranks))
    for check in checks:
        try:
            check()
        except TokenRingError as error:
            found.append(str(error))
    return found


def _start_ranks(config: RunConfig) -> Any:

    return run_job(RunJob(config), config.degrees.ranks)


def _as_rank(config: RunConfig) -> Any:

    started = int(os.environ["WORLD_SIZE"])
    if started != config.degrees.ranks:
        raise ConfigurationError(
            f"tokenring_degree={config.tokenring_degree} times ulysses_degree={config.ulysses_degree} is "
            f"{config.degrees.ranks} ranks, and torchrun started {started}: use degrees whose product is that, or "
            f"torchrun --nproc-per-node={config.degrees.ranks} on one node"
        )
    try:
        with joined_world():
            return run_on_rank(config)
    except TokenRingError as error:
        raise LaunchError(f"rank {os.environ['RANK']} failed: {error}") from error
