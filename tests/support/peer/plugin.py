"""Plugin of pytest, for tests of diffusers: each pipeline that they call is spread over the ranks that run them.

All ranks run the same tests in the same order, each in a process of its own. What a pipeline makes is kept, so that it
can be compared with what one process makes. ``suite.py`` makes a :class:`PeerPlugin` in each process.
"""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers

from tokenring_xdit import parallelize
from tokenring_xdit.errors import AgreementError, ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.calls import is_spread
from tokenring_xdit.hosts.diffusers.offer import compared
from tokenring_xdit.hosts.sharding import transformers_of

__all__ = ["PeerPlugin"]

_REFUSALS = (AgreementError, ConfigurationError, UnsupportedError)
"""What is raised before any work; other errors of this package follow a failure, often another rank's."""


class PeerPlugin:
    """What one process does beside running the tests.

    Args:
        rank: Its rank.
        ranks: How many there are; one alone spreads nothing.
        folder: For what it finds.
        port: Of the store where ranks meet.
        limit: How long a test may take; ranks have to answer each other in a quarter of that.
    """

    def __init__(self, rank: int, ranks: int, folder: Path, port: int, limit: timedelta) -> None:
        self._rank, self._ranks, self._folder, self._port, self._limit = rank, ranks, folder, port, limit
        self._test = ""
        self._made: list[np.ndarray] = []
        self._spread = 0
        # Each rank's tests have a folder of their own, and read what was written and logged there.
        transformers.PreTrainedModel.should_save_on_this_rank = lambda self, is_main_process: is_main_process
        diffusers.utils.logging.is_torch_dist_rank_zero = lambda: True
        for name in compared():
            kind = getattr(diffusers, name, None)
            if kind is not None:
                kind.__call__ = self._spreading(kind.__call__)

    def _spreading(self, call: Any) -> Any:
        @functools.wraps(call)
        def called(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            if self._ranks > 1 and not is_spread(pipe):
                self._join()
                whole = type(pipe).save_pretrained
                parallelize(pipe, tokenring_degree=self._ranks, host="diffusers")
                # all ranks save, the pipeline and its transformers
                type(pipe).save_pretrained = whole
                for model in transformers_of(pipe).values():
                    type(model).save_pretrained = diffusers.ModelMixin.save_pretrained
                self._spread += 1
                return pipe(*args, **kwargs)
            result = call(pipe, *args, **kwargs)
            if pipe.dtype is torch.float32:
                self._made.extend(_numbers(result))
            return result

        return called

    def _join(self) -> None:
        """Meet the other ranks in this test."""
        if dist.is_initialized():
            return
        store = dist.TCPStore("127.0.0.1", self._port, is_master=False, timeout=self._limit)
        own = dist.PrefixStore(self._test, store)
        own.set(f"here {self._rank}", b"")
        # one may still wait for an answer in the test before
        own.wait([f"here {rank}" for rank in range(self._ranks)], self._limit)
        dist.init_process_group("gloo", store=own, rank=self._rank, world_size=self._ranks, timeout=self._limit / 4)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Each test begins with random numbers of its own, and ends without ranks."""
        self._test, self._made, self._spread = item.nodeid, [], 0
        seed = zlib.crc32(item.nodeid.encode())
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self._write({"test": item.nodeid, "begins": True})
        try:
            return (yield)
        finally:
            if self._made:
                np.savez(self._folder / f"{seed}.npz", *self._made)
            if dist.is_initialized():
                dist.destroy_process_group()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        """Write down how a test, or a part of it, ended."""
        report = yield
        error = None if call.excinfo is None else call.excinfo.value
        outcome = "refused" if isinstance(error, _REFUSALS) and report.failed else report.outcome
        said = "" if error is None else f"{type(error).__name__}: {error}"
        if report.when == "call" or not report.passed:
            self._write({"test": item.nodeid, "outcome": outcome, "said": said, "spread": self._spread})
        return report

    def _write(self, entry: dict[str, Any]) -> None:
        with (self._folder / "tests.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


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
