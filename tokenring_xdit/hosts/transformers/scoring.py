"""Logits that stay with the rank that computed them, and log-probabilities of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.transformers.cache import ShardedCache
from tokenring_xdit.hosts.transformers.model import refuse_flat
from tokenring_xdit.hosts.transformers.session import Session

__all__ = ["own_hidden", "own_logits", "scores"]

_PIECE = 256
"""Tokens whose logits are held at once."""


def own_logits(
    session: Session, model: Any, ids: Tensor, mask: Tensor | None, cache: ShardedCache | None
) -> tuple[Tensor, range]:
    """Logits ``[B, T_r, V]`` of the tokens that this rank computes, and which of the ``T`` tokens those are."""
    with session.keeping_shards():
        logits: Tensor = model(**_arguments(model, ids, mask, cache)).logits
    return logits, session.own_rows


def own_hidden(
    session: Session, model: Any, ids: Tensor, mask: Tensor | None, cache: ShardedCache | None
) -> tuple[Tensor, range]:
    """Hidden states ``[B, T_r, hidden]`` of the tokens that this rank computes, and which of the ``T`` those are."""
    with session.keeping_shards():
        output = model.get_decoder()(**_arguments(model, ids, mask, cache))
    return output.last_hidden_state, session.own_rows


@torch.no_grad()
def scores(session: Session, model: Any, ids: Tensor, mask: Tensor | None, cache: ShardedCache | None) -> Tensor:
    """Log-probabilities ``[B, T - 1]`` of tokens after those before them, on every rank.

    Raises:
        UnsupportedError: There is no token before another.
    """
    with session.settling(), session.keeping_shards():
        refuse_flat(model, ids)
        if ids.shape[1] < 2:
            raise UnsupportedError(
                f"score was given {ids.shape[1]} tokens, and each is scored after others: pass two or more"
            )
        output = model.get_decoder()(**_arguments(model, ids, mask, cache))
        hidden, rows = output.last_hidden_state, session.own_rows
    following = torch.nn.functional.pad(ids.to(hidden.device), (0, 1))[:, rows.start + 1 : rows.stop + 1]
    found = hidden.new_zeros(*following.shape, 1, dtype=torch.float32)
    for start in range(0, len(rows), _PIECE):
        part = slice(start, start + _PIECE)
        output.last_hidden_state = hidden[:, part]
        with session.instead_of_decoder(output):  # the head is the model's own, with caps and scales
            logits = model(input_ids=ids[:, :1]).logits.float()
        found[:, part] = logits.log_softmax(dim=-1).gather(-1, following[:, part, None])
    return session.rows_of_all(found)[:, :-1, 0]


def _arguments(model: Any, ids: Tensor, mask: Tensor | None, cache: ShardedCache | None) -> dict[str, Any]:
    name = cache_name(type(model).forward)
    return {"input_ids": ids, "attention_mask": mask, "use_cache": cache is not None, name: cache}
