"""One call that spreads a causal language model over the ranks of ``torchrun``; it is then used as always."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import exchange
from tokenring_xdit.dtypes import DTYPES
from tokenring_xdit.errors import AgreementError, ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.agreement import describe, noting, raise_first, told
from tokenring_xdit.hosts.calls import join_world
from tokenring_xdit.hosts.transformers.attention import NAME, register
from tokenring_xdit.hosts.transformers.cache import ShardedCache
from tokenring_xdit.hosts.transformers.exchanges import Exchanges
from tokenring_xdit.hosts.transformers.generate import replace_generate
from tokenring_xdit.hosts.transformers.model import replace_decoder, replace_head, replace_rotary
from tokenring_xdit.hosts.transformers.scoring import own_hidden, own_logits, scores
from tokenring_xdit.hosts.transformers.session import Session, compare
from tokenring_xdit.hosts.transformers.strategies import TRAVELS, strategy_named
from tokenring_xdit.hosts.transformers.supported import family_of
from tokenring_xdit.hosts.transformers.turns import refuse_inside, turn
from tokenring_xdit.schedule import AUTO, build
from tokenring_xdit.schedule import Mask as PlanMask

__all__ = ["ContextParallel", "parallelize"]

_Model = TypeVar("_Model")

OUTPUTS = "outputs"
"""The one thing that travels in a step of an answer."""

CONTIGUOUS = "contiguous"
"""The one layout of tokens on ranks."""


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

    def __deepcopy__(self, memo: dict[int, Any]) -> ContextParallel:
        raise UnsupportedError(
            "a parallel model was copied, and the copy would compute with this one's weights: load the model again"
        )

    def use(self, prefill: str) -> None:
        """From now on shard prompts as :func:`parallelize` with this ``prefill`` does; every rank says so.

        Nothing is exchanged: the next call of the model is refused where ranks have said different things.

        Raises:
            ScheduleError: It is not known, or not for this number of ranks.
        """
        refuse_inside("tokenring.use is called")
        _refuse_prefill(prefill, self.ranks)
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


def parallelize(
    model: _Model,
    *,
    tokenring_degree: int = 1,
    prefill: str = AUTO,
    decode: str = OUTPUTS,
    layout: str = CONTIGUOUS,
) -> _Model:
    """Spread a causal language model over all ranks; every rank calls it with the same model.

    The model is changed in place. Its weights are whole on every rank; prompts are sharded, and so are the keys and
    values of all tokens, which stay where they were computed. ``generate`` and calls of the model are calls of all
    ranks, with the same arguments; in ``generate`` the first rank decides.

    Args:
        model: A causal language model of transformers, loaded and on this rank's device.
        tokenring_degree: Ranks that the sequence is sharded over.
        prefill: What travels between ranks where tokens are sharded: ``keys`` go to queries, or ``queries`` to keys. Or
            a schedule (see ``tokenring-xdit schedule list``), or ``balanced``, the one made for causal masks: for a
            whole prompt without padding, in layers without window and cap; elsewhere that goes of which there is less.
            ``auto`` takes what is predicted to be the fastest for the prompt or turn, where a topology is known of the
            ranks (see ``tokenring-xdit probe``), and is ``balanced`` elsewhere.
        decode: What travels in a step of an answer: ``outputs``, partial ones with their log-sum-exps, in one
            collective a layer. There is no other: all ranks have the queries already, and keys would all have to travel
            for every token.
        layout: Which tokens are a rank's: ``contiguous``, one piece of the sequence. There is no other; ``balanced``
            shares the work of a causal mask out evenly without one.

    Returns:
        ``model``, with ``model.tokenring``, a :class:`ContextParallel`.

    Raises:
        AgreementError: The ranks loaded different models, were given different arguments, or one of them refuses.
        ConfigurationError: There are no ranks, or another number of them.
        ScheduleError: ``prefill`` is not known, or not for this number of ranks.
        UnsupportedError: The model was not compared with the single process.
    """
    join_world()
    with noting() as noted:
        _refuse(model, tokenring_degree, prefill, decode, layout)
    asked = {"tokenring_degree": describe(tokenring_degree), "prefill": describe(prefill)}
    everyone = exchange(None, (told(noted.problem), asked), "the beginning of parallelize")
    raise_first([refused for refused, _ in everyone])
    compare([theirs for _, theirs in everyone], "compute one language model")
    anything = _without_adapters(model)
    family = family_of(anything)
    session = Session(anything, family, Exchanges(None, anything.device), *strategy_named(prefill), prefill)
    fingerprints = exchange(None, session.fingerprint, "the models")
    if len(set(fingerprints)) > 1:
        raise AgreementError(
            f"the ranks have loaded different weights, {', '.join(fingerprints)}: load the same model everywhere, "
            "in the same dtype"
        )
    register()
    anything.set_attn_implementation(NAME)
    replace_rotary(anything)
    replace_decoder(anything, session)
    replace_head(anything, session)
    replace_generate(anything, session)
    anything.tokenring = ContextParallel(anything, session)
    return model


def _refuse_foreign(model: Any) -> None:
    """Refuse code that is not transformers' own: it may attend in ways that its configuration does not say."""
    decoder = model.get_decoder()
    parts = [model, decoder, *decoder.layers, *(getattr(layer, "self_attn", None) for layer in decoder.layers)]
    for kind in map(type, parts):
        if not kind.__module__.startswith("transformers.models."):
            raise UnsupportedError(
                f"this model has a {kind.__name__} of {kind.__module__}, and only classes of transformers itself were "
                "compared with one process: load it without trust_remote_code, and without FSDP or classes of your own"
            )


def _without_adapters(model: Any) -> Any:
    """The model of transformers that peft has put into one of its own, which calls it; else the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _refuse_prefill(prefill: str, ranks: int) -> None:
    """Refuse what is no way to shard a prompt."""
    schedule = strategy_named(prefill)[1]
    if prefill not in TRAVELS and schedule != AUTO:
        build(schedule, ranks, PlanMask.CAUSAL)


def _refuse(model: Any, degree: int, prefill: str, decode: str, layout: str) -> None:
    """Refuse what ``parallelize`` does not take, before anything is changed."""
    if decode != OUTPUTS:
        raise UnsupportedError(
            f"decode={decode!r} was asked for, and in a step of an answer partial outputs travel, {OUTPUTS!r}, in one "
            "collective a layer: leave it out; all ranks have the queries of a step, and keys would travel each time"
        )
    if layout != CONTIGUOUS:
        raise UnsupportedError(
            f"layout={layout!r} was asked for, and each rank has one piece of the sequence, {CONTIGUOUS!r}: leave it "
            "out; prefill='balanced' gives all ranks equal work under a causal mask, as zigzag does"
        )
    _refuse_prefill(prefill, dist.get_world_size())
    if hasattr(model, "tokenring"):
        raise ConfigurationError("this model was made parallel before: load it anew for other degrees")
    if degree != dist.get_world_size():
        raise ConfigurationError(
            f"tokenring_degree={degree}, and {dist.get_world_size()} ranks were started: use that number, or torchrun "
            f"--nproc_per_node={degree}"
        )
    if getattr(model, "_orig_mod", None) is not None or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            "this model was compiled, and what ranks send each other is not: pass the model without torch.compile"
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedError(
            "this model has a learned prompt (peft), which puts embeddings before those of the prompt, and input_ids "
            "are what is sharded: use an adapter of weights, such as LoRA"
        )
    model = _without_adapters(model)
    family_of(model)
    _refuse_foreign(model)
    if str(model.dtype).removeprefix("torch.") not in DTYPES:
        raise UnsupportedError(
            f"this model is in {model.dtype}, and attention is computed in {', '.join(DTYPES)}: load it in one of these"
        )
    if model.device.type == "meta" or "disk" in (getattr(model, "hf_device_map", None) or {}).values():
        raise UnsupportedError(
            "weights of this model are not in memory (device_map, or the meta device), and every rank needs all of "
            "them: load it without device_map and call model.to(device)"
        )
    if len({*(getattr(model, "hf_device_map", None) or {}).values()}) > 1:
        raise UnsupportedError(
            "the layers of this model lie on several devices (device_map), and every rank has to have them on its own: "
            "load it without device_map and call model.to(device)"
        )
