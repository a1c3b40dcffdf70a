"""A rank that is killed or stopped in the middle of a long answer."""

from __future__ import annotations

from typing import Any

import torch

from tests.attention.trouble import Rank
from tests.hosts.transformers.jobs import parallel_model
from tests.hosts.transformers.models import prompts
from tokenring_xdit.hosts.changes import TOKEN_WISE

PROMPT, STEP, LONG = 31, 20, 2000
"""Tokens of the prompt, the forward pass in which a rank is struck, and tokens that no test waits for."""


@torch.no_grad()
def answering(own: Rank, struck: int, kind: str, family: str = "llama") -> None:
    """Answer a short prompt at length, until a rank is struck between two layers; then try once more."""
    model = parallel_model(family)
    passes: list[int] = []

    def strike(*_: Any) -> None:
        passes.append(1)
        if len(passes) == STEP and own.rank == struck:
            own.fault(kind)

    setattr(strike, TOKEN_WISE, True)  # it looks at no token
    model.model.layers[1].register_forward_pre_hook(strike)
    ids, _ = prompts(1, PROMPT)
    own.try_to(lambda: tuple(model.generate(ids, max_new_tokens=LONG).shape))
    own.say(f"{len(passes)} passes")
    own.try_to(lambda: tuple(model.generate(ids, max_new_tokens=2).shape))
