"""Plugin of pytest, for tests of diffusers: each pipeline that they call is spread over the ranks that run them.

All ranks run the same tests in the same order, each in a process of its own. What a pipeline makes is kept, so that it
can be compared with what one process makes. ``PEER_*`` of the environment say what else: see ``suite.py``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import diffusers  # before the tree of the tests could offer its own
import numpy as np
import pytest
import torch
import torch.distributed as dist

from tokenring_xdit import parallelize
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts.diffusers.offer import compared

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
FOLDER = Path(os.environ["PEER_FOLDER"])
LIMIT = timedelta(seconds=float(os.environ["PEER_LIMIT"]))

_MARK = "tokenring_parallel"
"""Attribute of pipelines that are spread."""


class Running:
    """The test that runs.

    Attributes:
        name: Its node.
        made: What its pipelines have made.
        spread: How many of them were spread.
    """

    name = ""
    made: list[np.ndarray] = []  # noqa: RUF012 - one process runs one test at a time
    spread = 0


def pytest_configure(config: pytest.Config) -> None:
    """Have pipelines that were compared spread as they are called."""
    torch.set_num_threads(1)
    for name in compared():
        kind = getattr(diffusers, name, None)
        if kind is not None:
            kind.__call__ = _spreading(kind.__call__)


def _spreading(call: Any) -> Any:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if RANKS > 1 and not hasattr(type(self), _MARK):
            _join()
            whole = type(self).save_pretrained
            parallelize(self, tokenring_degree=RANKS, host="diffusers")
            type(self).save_pretrained = whole  # every rank's tests have a folder of their own
            Running.spread += 1
            return self(*args, **kwargs)
        result = call(self, *args, **kwargs)
        if self.dtype is torch.float32:
            Running.made.extend(_numbers(result))
        return result

    return called


def _join() -> None:
    """Meet the other ranks in this test."""
    if dist.is_initialized():
        return
    store = dist.TCPStore("127.0.0.1", int(os.environ["PEER_PORT"]), is_master=False, timeout=LIMIT)
    own = dist.PrefixStore(Running.name, store)
    own.set(f"here {RANK}", b"")
    own.wait([f"here {rank}" for rank in range(RANKS)], LIMIT)  # one may still wait for the end of the test before
    dist.init_process_group("gloo", store=own, rank=RANK, world_size=RANKS, timeout=LIMIT / 4)


def _numbers(result: Any) -> list[np.ndarray]:
    """Pictures in a result, or latents."""
    if isinstance(result, torch.Tensor):
        return [result.detach().float().numpy().copy()]
    if isinstance(result, np.ndarray):
        return [result.astype(np.float32)]
    if hasattr(result, "tobytes") and hasattr(result, "convert"):  # a PIL picture
        return [np.asarray(result, dtype=np.float32)]
    parts = result.values() if hasattr(result, "values") else result if isinstance(result, (list, tuple)) else ()
    return [numbers for part in parts for numbers in _numbers(part)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Each test begins with random numbers of its own, and ends without ranks."""
    Running.name, Running.made, Running.spread = item.nodeid, [], 0
    seed = zlib.crc32(item.nodeid.encode())
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    _write({"test": item.nodeid, "begins": True})
    try:
        return (yield)
    finally:
        if Running.made:
            np.savez(FOLDER / f"{seed}.npz", *Running.made)
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Write down how a test, or a part of it, ended."""
    report = yield
    error = None if call.excinfo is None else call.excinfo.value
    outcome = "refused" if isinstance(error, TokenRingError) and report.failed else report.outcome
    said = "" if error is None else f"{type(error).__name__}: {error}"
    entry = {"test": item.nodeid, "outcome": outcome, "said": said, "spread": Running.spread}
    if report.when == "call" or not report.passed:
        _write(entry)
    return report


def _write(entry: dict[str, Any]) -> None:
    with (FOLDER / "tests.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
