"""Runs tests of a diffusers tree alone and over ranks, and compares how they end and what their pipelines make."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from tests.support.peer.plugin import PeerPlugin

__all__ = ["Compared", "Outcome", "compare", "run_target", "table"]


TOLERANCE = 1e-5
"""Of what pipelines make in fp32, relative to its largest value."""

_POLL = 0.2

_ENDED = (0, 1)
"""Exit codes of pytest that ran its tests to their end."""


@dataclass(frozen=True)
class Outcome:
    """How a test ended in one process.

    Attributes:
        how: ``passed``, ``failed``, ``skipped``, ``refused``, or ``no answer``.
        said: Its error.
        spread: How many pipelines were spread.
        made: What its pipelines made.
    """

    how: str
    said: str = ""
    spread: int = 0
    made: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A test alone and sharded.

    Attributes:
        test: Its node.
        result: ``same``, ``refused``, ``fails``, ``differs``, ``no answer``; ``not spread`` where no pipeline was
            spread, and what did not pass alone is ``failed`` or ``skipped``.
        said: Why.
        error: Largest difference of what pipelines made, relative to its scale.
    """

    test: str
    result: str
    said: str = ""
    error: float = 0.0


def run_target(tree: Path, target: str, folder: Path, *, ranks: int, limit: float, only: str = "") -> list[Compared]:
    """Run the tests of one file or folder alone, and over ranks beside that.

    This process is forked, so that what takes long to import is imported once; it may have computed nothing yet on
    several threads.

    Args:
        tree: The source tree.
        target: Path of tests in it.
        folder: An empty one, for what is found.
        ranks: How many.
        limit: Seconds that one test may take, and in a quarter of which ranks have to answer each other.
        only: Which of the tests, as pytest's ``-k`` takes it; all by default.

    Raises:
        RuntimeError: The tests could not be collected, or the process alone did not run them to their end.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seats = [(0, 1), *((rank, ranks) for rank in range(ranks))]
    own = [folder / f"{rank}-of-{world}" for rank, world in seats]
    fork = multiprocessing.get_context("fork")
    processes = []
    try:
        for each, (rank, world) in zip(own, seats, strict=True):
            each.mkdir(parents=True)
            plugin = (rank, world, each, store.port, timedelta(seconds=limit))
            processes.append(fork.Process(target=_child, args=(tree, target, only, plugin)))
            processes[-1].start()
        _wait(processes, own, limit)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    alone, *together = map(_outcomes, own)
    if not alone or processes[0].exitcode not in _ENDED:
        log = (own[0] / "log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the tests of {target} did not come to an end alone:\n{log}")
    return [compare(test, outcome, [each.get(test) for each in together]) for test, outcome in alone.items()]


def _child(tree: Path, target: str, only: str, plugin: tuple[Any, ...]) -> None:
    """Run tests in a fork of this process."""
    rank, world, folder, *_ = plugin
    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(tree)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # the tree has a package of that name as well
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--tb=short", *(["-k", only] if only else []), target]
    status = pytest.main(options, plugins=[PeerPlugin(*plugin)])
    sys.stdout.flush()
    os._exit(int(status))  # the store of the parent is none to be closed here


def _wait(processes: Sequence[Any], folders: Sequence[Path], limit: float) -> None:
    """Until all have ended, nothing was heard of any for twice the limit, or a rank died and no other process is left.

    The other ranks would wait for one that died in every test.
    """
    alone, *together = processes
    heard = time.monotonic()
    sizes = [-1 for _ in folders]
    while any(process.is_alive() for process in processes):
        time.sleep(_POLL)
        if not alone.is_alive() and any(each.exitcode not in {None, *_ENDED} for each in together):
            return
        now = [_size(folder / "tests.jsonl") + _size(folder / "log") for folder in folders]
        if now != sizes:
            sizes, heard = now, time.monotonic()
        elif time.monotonic() - heard > 2 * limit:
            return


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _outcomes(folder: Path) -> dict[str, Outcome]:
    """By test, in the order in which they ran."""
    file = folder / "tests.jsonl"
    found: dict[str, Outcome] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        entry: dict[str, Any] = json.loads(line)
        test = entry["test"]
        before = found.get(test)
        if "begins" in entry:
            found[test] = Outcome("no answer", "it did not end")
        elif before is None or before.how in {"no answer", "passed"}:
            found[test] = Outcome(entry["outcome"], entry["said"], entry["spread"])
    for test, outcome in found.items():
        numbers = folder / f"{zlib.crc32(test.encode())}.npz"
        if outcome.how == "passed" and numbers.is_file():
            with np.load(numbers) as made:
                found[test] = Outcome(outcome.how, outcome.said, outcome.spread, tuple(made[name] for name in made))
    return found


def compare(test: str, alone: Outcome, together: Sequence[Outcome | None]) -> Compared:
    """A test alone beside the same on each rank."""
    if alone.how != "passed":
        return Compared(test, "skipped" if alone.how == "skipped" else "failed", alone.said)
    missing = [rank for rank, outcome in enumerate(together) if outcome is None or outcome.how == "no answer"]
    if missing:
        return Compared(test, "no answer", f"of rank {', '.join(map(str, missing))}")
    outcomes = [outcome for outcome in together if outcome is not None]
    if all(outcome.how == "refused" for outcome in outcomes):
        return Compared(test, "refused", f"rank 0: {outcomes[0].said}")
    for how in ("failed", "skipped", "refused"):  # what some ranks only refuse is a failure
        for rank, outcome in enumerate(outcomes):
            if outcome.how == how:
                return Compared(test, "fails", f"rank {rank}: {how}: {outcome.said}")
    error = max(_difference(outcome.made, alone.made) for outcome in outcomes)
    if error > TOLERANCE:
        return Compared(test, "differs", f"by {error:.1e} of its scale", error)
    return Compared(test, "same" if outcomes[0].spread else "not spread", error=error)


def _difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    if [each.shape for each in found] != [each.shape for each in expected]:
        return float("inf")
    return max((_apart(own, other) for own, other in zip(found, expected, strict=True)), default=0.0)


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    scale = float(np.abs(expected[finite]).max(initial=1e-30))
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale


def table(found: Mapping[str, Sequence[Compared]]) -> str:
    """What was found, by target: how many of each kind, then each test that passes alone and not sharded.

    Args:
        found: The tests of each target.
    """
    kinds = ("same", "refused", "fails", "differs", "no answer", "not spread", "failed", "skipped")
    titles = (
        "same sharded",
        "refused",
        "fails",
        "differs",
        "no answer",
        "calls no pipeline that is spread",
        "fails alone",
        "skipped",
    )
    lines = [f"| tests | {' | '.join(titles)} | largest difference |", "| --- " * (len(kinds) + 2) + "|"]
    for target, tests in found.items():
        counts = Counter(test.result for test in tests)
        worst = max((test.error for test in tests if test.result == "same"), default=0.0)
        lines.append(f"| {target} | {' | '.join(str(counts[kind]) for kind in kinds)} | {worst:.1e} |")
    for kind, title in zip(kinds[1:5], titles[1:5], strict=True):
        lines += [
            f"{title}: {test.test}\n    {' '.join(test.said.split())[:400]}"
            for tests in found.values()
            for test in tests
            if test.result == kind
        ]
    return "\n".join(lines)
