"""``tokenring-xdit run``: pictures, videos or texts as a YAML config says, or flags, on one rank or several."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tokenring_xdit.cli.arguments.run import KEYS
from tokenring_xdit.cli.dry_run import tell_run
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.devices import refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError, LaunchError, TokenRingError
from tokenring_xdit.graphs import refuse_without_cuda
from tokenring_xdit.messages import one_line
from tokenring_xdit.pipelines import embedded
from tokenring_xdit.pipelines.inspection import inspect_run, outputs_of
from tokenring_xdit.pipelines.model import EMBEDDED
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.tasks import AnyRun, program_of, read_run, run_as_rank
from tokenring_xdit.pipelines.text_models import SMOLLM2, beyond_context
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["run_command"]


def run_command(args: argparse.Namespace) -> None:
    """Make what a config and flags say."""
    path, overrides = _said(args)
    config = read_run(path, overrides, _mistakes_here)
    if os.environ.get("RANK", "0") == "0":
        for output in outputs_of(config):
            refuse_unwritable(output, f"output {output}", keep=not args.dry_run)
        if args.dry_run:
            tell_run(config, as_json=args.json)
        elif isinstance(config, RunConfig):
            _note_limits(config)
    if args.dry_run:
        return
    written = _as_rank(config) if "RANK" in os.environ else _start_ranks(config)
    if written is None:
        return
    if args.json:
        print(json.dumps({"ranks": config.degrees.ranks, "written": written}))
        return
    ranks = f"{config.degrees.ranks} rank{'s' * (config.degrees.ranks > 1)}"
    for entry in written:
        if isinstance(config, TextRunConfig):
            _note_length(config, entry)
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
    small = SMOLLM2 if "task=text" in [*overrides, *flags] else EMBEDDED
    return None, [f"model={small}", *overrides, *flags]


def _note_length(config: TextRunConfig, entry: dict[str, Any]) -> None:
    """Say that a prompt with its answer was longer than the model was made for."""
    tokens = entry["prompt_tokens"] + len(entry["tokens"])
    beyond = beyond_context(config.model, tokens, entry["context_length"])
    if beyond is not None:
        print(f"{entry['output']}: {beyond}", file=sys.stderr)


def _note_limits(config: RunConfig) -> None:
    """Say what the embedded model was not trained for; it draws something all the same."""
    if config.model != EMBEDDED:
        return
    known = embedded.words()
    asked = re.findall(r"[^\W\d_]+", " ".join(config.prompts()).lower())
    unknown = sorted({word for word in asked if word not in known})
    if unknown:
        print(f"note: the embedded model knows only these words: {', '.join(known)}", file=sys.stderr)
        print(f"note: not among them: {', '.join(unknown)}; for other pictures name a model", file=sys.stderr)
    trained = PictureSize(embedded.IMAGE_SIZE, embedded.IMAGE_SIZE)
    if config.size not in {None, trained}:
        print(f"note: the embedded model was trained on pictures of {trained} pixels", file=sys.stderr)


def _mistakes_here(config: AnyRun) -> list[str]:
    """What is wrong with the model, and on this machine; ``config check`` may run on another one."""
    found = inspect_run(config)
    checks = [config.attention_backend.refuse_missing] if isinstance(config, RunConfig) else []
    if isinstance(config, RunConfig) and config.cuda_graphs:
        checks.append(lambda: refuse_without_cuda("cuda_graphs"))
    degrees = None
    with contextlib.suppress(TokenRingError):  # which is said of the keys
        degrees = config.degrees
    if "RANK" not in os.environ:
        checks.append(check_versions)
    if degrees is not None and "RANK" not in os.environ:
        checks.append(partial(refuse_missing_gpus, degrees.ranks))
    elif degrees is not None:
        checks.append(partial(degrees.refuse_started, int(os.environ["WORLD_SIZE"])))
    for check in checks:
        try:
            check()
        except TokenRingError as error:
            found.append(str(error))
    return found


def _start_ranks(config: AnyRun) -> Any:
    with WorkerPool(program_of(config), config.degrees.ranks, quiet=False) as pool:
        return pool.ask(config)[0]


def _as_rank(config: AnyRun) -> Any:
    try:
        return run_as_rank(config)
    except TokenRingError as error:
        raise LaunchError(f"rank {os.environ['RANK']} failed: {error}") from error
