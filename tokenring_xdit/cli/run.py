"""``tokenring-xdit run``: pictures or videos as a YAML config says, or flags, on one rank or several."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from tokenring_xdit.cli.arguments.run import KEYS
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.config import read_config
from tokenring_xdit.devices import refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError, LaunchError, TokenRingError
from tokenring_xdit.graphs import refuse_without_cuda
from tokenring_xdit.lab.embedded.scenes import IMAGE_SIZE, vocabulary
from tokenring_xdit.messages import one_line
from tokenring_xdit.pipelines.model import EMBEDDED
from tokenring_xdit.pipelines.run import RunConfig, inspect_model
from tokenring_xdit.pipelines.run_rank import joined_world, run_on_rank
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["run_command"]


def run_command(args: argparse.Namespace) -> None:
    """Draw what a config and flags say."""
    path, overrides = _said(args)
    config = read_config(RunConfig, path, overrides, _mistakes_here)
    if os.environ.get("RANK", "0") == "0":
        for output in config.outputs():
            refuse_unwritable(output, f"output {output}")
        _note_limits(config)
    written = _as_rank(config) if "RANK" in os.environ else _start_ranks(config)
    if written is None:
        return
    if args.json:
        print(json.dumps({"ranks": config.degrees.ranks, "written": written}))
        return
    ranks = f"{config.degrees.ranks} rank{'s' * (config.degrees.ranks > 1)}"
    for entry in written:
        print(f"wrote {entry['output']} ({ranks}, {entry['seconds']:.1f} s)")


def _said(args: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """The config, if one is named, and what replaces values of it."""
    files = [text for text in args.said if "=" not in text]
    if len(files) > 1:
        raise ConfigurationError(
            f"{one_line(' '.join(files))}: a run has one config; a prompt stands behind --prompt, in quotes"
        )
    overrides = [text for text in args.said if text not in files]
    flags = [f"{key}={getattr(args, key)}" for key in KEYS if getattr(args, key) is not None]
    if files:
        return Path(files[0]), [*overrides, *flags]
    return None, [f"model={EMBEDDED}", *overrides, *flags]


def _note_limits(config: RunConfig) -> None:
    """Say what the embedded model was not trained for; it draws something all the same."""
    if config.model != EMBEDDED:
        return
    words = vocabulary()
    asked = re.findall(r"[^\W\d_]+", " ".join(config.prompts()).lower())
    unknown = sorted({word for word in asked if word not in words})
    if unknown:
        print(f"note: the embedded model knows only these words: {', '.join(words)}", file=sys.stderr)
        print(f"note: not among them: {', '.join(unknown)}; for other pictures name a model", file=sys.stderr)
    trained = PictureSize(IMAGE_SIZE, IMAGE_SIZE)
    if config.size not in {None, trained}:
        print(f"note: the embedded model was trained on pictures of {trained} pixels", file=sys.stderr)


def _mistakes_here(config: RunConfig) -> list[str]:
    """What is wrong with the model, and on this machine; ``config check`` may run on another one."""
    found = inspect_model(config)
    checks = [config.attention_backend.refuse_missing]
    if config.cuda_graphs:
        checks.append(lambda: refuse_without_cuda("cuda_graphs"))
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
    with WorkerPool("tokenring_xdit.pipelines.run_rank", config.degrees.ranks, quiet=False) as pool:
        return pool.ask(config)[0]


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
