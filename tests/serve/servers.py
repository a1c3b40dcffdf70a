"""Servers as users start them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.serve.client import Client
from tests.support.commands import start

__all__ = ["PATIENCE", "Served", "ranks_of", "ready", "served", "until"]

PATIENCE = 300.0

Served = tuple[subprocess.Popen[str], Client]


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def served(folder: Path, name: str, *words: str, key: str | None = None, **environment: str) -> Iterator[Served]:
    """A server on a port of its own that is ready, and who speaks to it.

    Args:
        folder: Of its logs, and its forecasts.
        name: Of its model, as it says it.
        words: Of its command line.
        key: What clients have to say.
        environment: Variables.
    """
    keys = {} if key is None else {"TOKENRING_API_KEY": key}
    variables = {"TMPDIR": str(folder), **keys, **environment}
    with start("serve", *words, f"forecasts={folder}", "--port", "0", environment=variables) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith(f"serving {name} on http://127.0.0.1:")
            client = Client(int(said.rpartition(":")[2]), key)
            until(lambda: ready(client))
            yield process, client
        finally:
            process.kill()


def ready(client: Client) -> bool:
    """Whether it serves requests."""
    return client.ask("GET", "/ready").status == 200


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """Its ranks."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[int(child.environ()["RANK"])] = child
        except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
            continue
    return found
