"""What a call in the widest form launches on a GPU, counted operator by operator on a transport in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.support.memory import Shards, ranks_first, run
from tests.support.reference import relative_error, softmax_attention
from tokenring_xdit.attention import merge
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.lower.program import Post
from tokenring_xdit.schedule.problem import Problem

FREE = {
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "new_empty", "permute", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip
"""Operators that launch nothing: views, and memory."""


class Recorder(TorchDispatchMode):
    """Counts what would be launched: operators, and each of some functions as one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    def as_one(self, function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
        """The function, of which all that it launches on this thread is counted as one; as nothing without a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if name and threading.get_ident() == self._thread:
                self.counts[name] += 1
            with _disable_current_modes():
                return function(*args, **kwargs)

        return call


def like_a_gpu(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention as the kernels of GPUs lay it out: the output as the queries lie, log-sum-exps head-major."""
    with _disable_current_modes():
        out, lse = softmax_attention(q, k, v)
        order = torch.empty_like(q)
        order.copy_(out)
        return order, lse.float().contiguous()


@contextmanager
def recorded(rank: int) -> Iterator[Counter[str]]:
    """Counts what a rank launches."""
    found: Counter[str] = Counter()
    of_rank = RankRun.run

    def counted(self: RankRun, *home: Any) -> Any:
        transport = self.transport
        if transport.rank != rank:
            return of_rank(self, *home)
        recorder = Recorder()
        for name in ("post", "all_gather", "all_to_all"):
            setattr(transport, name, recorder.as_one(getattr(transport, name), name))
        transport.wait_for = recorder.as_one(transport.wait_for)  # type: ignore[method-assign]
        self.attention.kernel = recorder.as_one(like_a_gpu, "kernel")
        with recorder, patch.object(merge, "merge", recorder.as_one(merge.merge, "merge")):
            result = of_rank(self, *home)
        found.update(recorder.counts)
        return result

    with patch.object(RankRun, "run", counted):
        yield found


@pytest.mark.parametrize(
    ("name", "most"),
    [("token_ring", 6), ("direct", 6), ("mesh", 8), ("heads", 12), ("ring", 3)],
)
def test_a_call_of_eight_ranks_launches_few_kernels(name: str, most: int) -> None:
    problem = Problem.even(8, 64, 8, 16)
    programs = lower(replace(build(name, 8, heads=8).schedule, wide=8), problem, in_order=True)
    shards = Shards.of(problem)
    # As pipelines hand them over: [B, S, H, D] in memory, seen as [B, H, S, D].
    shards = Shards(*(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (shards.q, shards.k, shards.v)))
    with recorded(3) as launched:
        found = run(programs, problem, shards, ranks_first, in_order=True)
    for one, other in zip(found, softmax_attention(shards.q, shards.k, shards.v), strict=True):
        assert relative_error(one, other) <= 1e-5
    assert launched["kernel"] == 1, launched
    collectives = [post.messages for _, post in programs[3].steps if isinstance(post, Post) and post.collective]
    assert launched["all_gather"] + launched["all_to_all"] == sum(collectives)  # which the planner counts
    print(name, sum(launched.values()), dict(launched))
    assert sum(launched.values()) <= most, launched
