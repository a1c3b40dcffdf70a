"""What a parallel language model can do beside what it always could."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.hosts.transformers.cache import ShardedCache
from tokenring_xdit.hosts.transformers.exchanges import Exchanges
from tokenring_xdit.hosts.transformers.scoring import own_hidden, own_logits, scores
from tokenring_xdit.hosts.transformers.session import Session
from tokenring_xdit.hosts.transformers.strategies import BALANCED, WAYS, strategy_named
from tokenring_xdit.hosts.transformers.turns import refuse_inside, turn
from tokenring_xdit.schedule import AUTO, build
from tokenring_xdit.schedule import Mask as PlanMask

__all__ = ["ContextParallel", "refuse_prefill"]


class ContextParallel:
    """What a parallel model can do beside what it always could; it is ``model.tokenring``.

    Args:
        model: The model.
        session: What it has beside itself.
    """

    def __init__(self, model: Any, session: Session) -> None:
        self._model, self._session = model, session

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._session.exchanges.rank

    @property
    def ranks(self) -> int:
        """How many ranks compute the model together."""
        return self._session.exchanges.ranks

    @property
    def exchanges(self) -> Exchanges:
        """What carries tensors between the ranks."""
        return self._session.exchanges

    def use(self, prefill: str) -> None:
        """From now on shard prompts as :func:`parallelize` with this ``prefill`` does; every rank says so.

        Nothing is exchanged: the next call of the model is refused where ranks have said different things.

        Raises:
            ScheduleError: It is not known, or not for this number of ranks.
        """
        refuse_inside("tokenring.use is called")
        refuse_prefill(prefill, self.ranks)
        self._session.use(prefill, *strategy_named(prefill))

    @contextmanager
    def giving_up(self, asked: Callable[[], bool]) -> Iterator[None]:
        """Inside, ``generate`` ends before the next layer of a prompt once the first rank is to: a message a layer.

        What was cached before the prompt stays. For tokens of an answer there are stopping criteria.

        Args:
            asked: Whether to give up; what other ranks than the first pass is not called.

        Raises:
            CancelledError: From ``generate``, on all ranks.
        """
        self._session.gives_up = asked
        try:
            yield
        finally:
            self._session.gives_up = None

    def hidden(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: ShardedCache | None = None
    ) -> tuple[Tensor, range]:
        """Hidden states behind the last layer, of the tokens that this rank computes.

        Args:
            input_ids: ``[B, T]``, the same on all ranks.
            attention_mask: ``[B, P + T]``; ``None`` where nothing is padding.
            cache: What was computed before; ``None`` for nothing.

        Returns:
            ``[B, T_r, hidden]`` and which of the ``T`` tokens they belong to. Of a few tokens every rank has all.
        """
        refuse_inside("tokenring.hidden is called")
        with turn(self._session):
            return own_hidden(self._session, self._model, input_ids, attention_mask, cache)

    def cache(self) -> ShardedCache:
        """An empty cache for ``generate`` and for calls of the model; every rank makes it."""
        return self._session.new_cache()

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: ShardedCache | None = None
    ) -> tuple[Tensor, range]:
        """Logits that are never gathered: of the tokens that this rank computes.

        Args:
            input_ids: ``[B, T]``, the same on all ranks.
            attention_mask: ``[B, P + T]``; ``None`` where nothing is padding.
            cache: What was computed before; ``None`` for nothing.

        Returns:
            Logits ``[B, T_r, V]`` and which of the ``T`` tokens they belong to. Of a few tokens every rank has all.
        """
        refuse_inside("tokenring.logits is called")
        with turn(self._session):
            return own_logits(self._session, self._model, input_ids, attention_mask, cache)

    def score(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: ShardedCache | None = None
    ) -> Tensor:
        """Log-probabilities of a text, token by token; logits stay in shards, and in pieces.

        Args:
            input_ids: ``[B, T]``, the same on all ranks.
            attention_mask: ``[B, P + T]``; ``None`` where nothing is padding.
            cache: What was computed before; ``None`` for nothing.

        Returns:
            ``[B, T - 1]`` in fp32, on every rank: of each token but the first, after those before it.
        """
        refuse_inside("tokenring.score is called")
        with turn(self._session):
            return scores(self._session, self._model, input_ids, attention_mask, cache)

    def report(self) -> dict[str, Any]:
        """This rank's number, the number of ranks, and the bytes that it has sent for attention so far."""
        return {"rank": self.rank, "ranks": self.ranks, "bytes_sent": self._session.exchanges.bytes_sent}


def refuse_prefill(prefill: str, ranks: int) -> None:
    """Refuse what is no way to shard a prompt over that many ranks.

    Raises:
        ScheduleError: It is not known, or not for this number of ranks.
    """
    choices = f"prefill is {prefill!r}; it has to be {', '.join((AUTO, BALANCED, *WAYS))} or a schedule"
    if not isinstance(prefill, str):
        raise ScheduleError(choices)
    schedule = strategy_named(prefill)[1]
    if prefill not in WAYS and schedule != AUTO:
        try:
            build(schedule, ranks, PlanMask.CAUSAL)
        except ScheduleError as error:
            raise ScheduleError(f"{choices}: {error}") from error
