"""Sweeps that commands run, with a bar."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from tokenring_xdit.bench import Outcome, Record, Status, SweepConfig, inspect_models, run_sweep
from tokenring_xdit.cli.progress import progress
from tokenring_xdit.config import read_config
from tokenring_xdit.devices import default_dtype
from tokenring_xdit.errors import LaunchError

__all__ = ["comparison", "refuse_failed", "run_shown"]

_SECONDS = 86_400
"""That a call of a comparison may take: somebody waits for it, and may interrupt."""


def run_shown(name: str, config: SweepConfig, args: argparse.Namespace, **options: Any) -> Outcome:
    """Run a sweep.

    Args:
        name: What the bar is called.
        config: The sweep.
        args: What was typed.
        **options: Others of :func:`~tokenring_xdit.bench.run_sweep`.
    """
    with progress(name) as show:
        return run_sweep(
            config, command=args.command, on_step=lambda step: show(step.done, step.total, step.what), **options
        )


def comparison(args: argparse.Namespace, keys: Sequence[str], said: dict[str, Any]) -> SweepConfig:
    """The sweep that the command line of ``compare`` says.

    Args:
        args: The command line.
        keys: Keys of the sweep that are flags of the same name.
        said: The others.
    """
    usual = {"dtype": args.dtype or default_dtype(), "timeout": _SECONDS, "warmup": 0}  # the checks are enough
    values = {**usual, **said, **{key: getattr(args, key) for key in ("seed", "ranks", "rounds", *keys)}}
    return read_config(SweepConfig, None, [f"{key}={value}" for key, value in values.items()], inspect_models)


def refuse_failed(records: Sequence[Record], *statuses: Status) -> None:
    """Raise what went wrong in a comparison.

    Args:
        records: Its cases.
        statuses: With which a case is none.

    Raises:
        LaunchError: Some have one of them.
    """
    failed = [record for record in records if record.status in statuses]
    if failed:
        raise LaunchError("\n".join(f"{record.strategy}: {record.error}" for record in failed))
