"""What the commands about language models share."""

from __future__ import annotations

import argparse

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.devices import refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.text_models import refuse_model
from tokenring_xdit.pipelines.text_run import read_text
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["read_text", "refuse_below_one", "text_ranks"]


def refuse_below_one(args: argparse.Namespace, *names: str) -> None:
    """Refuse arguments that were given and are less than 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} {value}: it has to be at least 1")


def text_ranks(args: argparse.Namespace) -> WorkerPool:
    """Ranks for the model of a command, after what can be refused before they start."""
    refuse_model(args.model)
    check_versions()
    refuse_missing_gpus(args.ranks)
    return WorkerPool("tokenring_xdit.pipelines.text_rank", args.ranks)
