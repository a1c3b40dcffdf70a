"""``tokenring-xdit config check``: look for mistakes of configs, and at their models, without running them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError
from tokenring_xdit.messages import one_line
from tokenring_xdit.pipelines.inspection import inspect_run
from tokenring_xdit.pipelines.tasks import read_run
from tokenring_xdit.serve.foresee import Foreseen, foresee

__all__ = ["check_command"]


def check_command(args: argparse.Namespace) -> None:
    """Find all mistakes of configs."""
    files = [Path(text) for text in args.configs if "=" not in text or _exists(text)]
    overrides = [text for text in args.configs if Path(text) not in files]
    if not files:
        raise ConfigurationError(f"{one_line(' '.join(overrides))}: name a config before what to replace in it")
    verdicts = [_verdict(path, overrides) for path in files]
    if args.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            if verdict.mistakes is None:
                but = f", but {verdict.unseen}" if verdict.unseen else ""
                takes = f"; takes {verdict.forecast}" if verdict.forecast else ""
                print(f"{one_line(verdict.config)}: fine{but}{takes}")
    wrong = [verdict.mistakes for verdict in verdicts if verdict.mistakes is not None]
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # an override may be longer than names of files can be
        return False


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a config, why its model could not be looked at, and what it takes; ``None`` where unknown."""

    config: str
    mistakes: str | None = None
    unseen: str | None = None
    forecast: Foreseen | None = None


def _verdict(path: Path, overrides: list[str]) -> _Verdict:
    try:
        config = read_run(path, overrides, inspect=inspect_run)
    except ModelUnreachableError as error:
        return _Verdict(str(path), unseen=f"the model was not looked at: {error}")
    except TokenRingError as error:
        return _Verdict(str(path), mistakes=str(error))
    return _Verdict(str(path), forecast=foresee(config))
