"""How a prompt is sharded: by a name, or as predicted for its length."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.hosts.transformers.exchanges import Exchanges
from tokenring_xdit.planning.capacity import balanced_schedule
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.straight import Way

__all__ = ["BALANCED", "WAYS", "PlannedStrategies", "strategy_named"]

BALANCED = "balanced"
"""The schedule that was made for causal masks: shards are contiguous, and all ranks have equal work."""

WAYS = {way.value: way for way in (Way.KEYS, Way.QUERIES)}


def strategy_named(name: str) -> tuple[Way | None, str]:
    """Whether keys or queries go to other ranks, and else the schedule of plain causal attention.

    Args:
        name: As ``prefill=`` of :func:`tokenring_xdit.hosts.transformers.parallelize`.
    """
    named = name not in WAYS and name != BALANCED
    return WAYS.get(name), name if named else balanced_schedule()


class PlannedStrategies:
    """The strategies that are predicted to be the fastest for a model, by how many tokens there are.

    Args:
        model: A causal language model of transformers.
        exchanges: Its ranks.

    Attributes:
        known: What was planned; ``None`` where nothing is known of the network.
    """

    def __init__(self, model: Any, exchanges: Exchanges) -> None:
        self.known: dict[LayerTurn, str | None] = {}
        self._exchanges = exchanges
        config = model.config
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = getattr(config, "num_key_value_heads", None) or self._heads
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._model = model
        self._device: torch.device = model.device

    def of(self, batch: int, past: int, new: int) -> tuple[Way | None, str]:
        """As :func:`strategy_named`; the same on all ranks, which all ask.

        Args:
            batch: Items.
            past: Tokens that were computed before.
            new: Tokens of this call.
        """
        dtype: torch.dtype = self._model.dtype  # it may have been cast since the last prompt
        turn = LayerTurn(
            self._exchanges.ranks,
            _roughly(past),
            _roughly(new),
            self._heads,
            self._kv_heads,
            self._head_dim,
            batch,
            dtype.itemsize,
        )
        if turn not in self.known:
            self.known[turn] = self._exchanges.plan(turn, dtype, self._device)
        return strategy_named(self.known[turn] or BALANCED)


def _roughly(tokens: int) -> int:
    """A length to within an eighth: prompts that hardly differ are planned once."""
    step = 1 << max(0, tokens.bit_length() - 4)
    return -(-tokens // step) * step
