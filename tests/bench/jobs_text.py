"""What worker ranks do for the tests of sweeps of language models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenring_xdit.bench import Strategy
from tokenring_xdit.bench.commands import Checked, Prepare
from tokenring_xdit.bench.text import TextShape
from tokenring_xdit.bench.text_rank import TextBench
from tokenring_xdit.hosts.transformers import exchanges
from tokenring_xdit.planning.pairs import Slice

CPU = torch.device("cpu")


def check(shape: TextShape, names: list[str]) -> dict[str, Checked]:
    """What this rank finds of strategies, by turns."""
    try:
        bench = TextBench(Prepare(shape, 3, "single" in names), CPU)
        return {name: bench.check(Strategy.parse(name)) for name in names}
    finally:
        TextBench._loaded = None  # the pool destroys the groups


def check_with_a_fault(shape: TextShape, name: str) -> Checked:
    """The same where every rank leaves out the first key of the others."""
    attend = exchanges.attend_slice

    def forgetful(q: Tensor, k: Tensor, v: Tensor, at: int, seen: Slice, *more: Any) -> Any:
        if seen.tokens > 1 and seen.pieces[0][0] > 0:
            (low, high), *rest = seen.pieces
            seen = seen._replace(offset=seen.offset + 1, tokens=seen.tokens - 1, pieces=((low + 1, high), *rest))
        return attend(q, k, v, at, seen, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exchanges, "attend_slice", forgetful)
        return check(shape, [name])[name]
