"""A parallel model: its calls, its caches, and who tells whom what is computed next."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenring_xdit.attention import exchange
from tokenring_xdit.errors import CancelledError, CommunicationError, TokenRingError
from tokenring_xdit.hosts.agreement import describe, noting, refuse_differing, said_by_all
from tokenring_xdit.hosts.transformers.cache import ShardedCache
from tokenring_xdit.hosts.transformers.current import Forward, entered
from tokenring_xdit.hosts.transformers.exchanges import Exchanges
from tokenring_xdit.hosts.transformers.parcels import from_plain, plain
from tokenring_xdit.hosts.transformers.rows import Division, gather_rows
from tokenring_xdit.hosts.transformers.strategies import PlannedStrategies
from tokenring_xdit.hosts.transformers.supported import Family, windows_of
from tokenring_xdit.hosts.weights import Weights
from tokenring_xdit.planning.layer_turn import few_tokens
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule import AUTO

__all__ = ["STORY", "WEIGHTS", "Inputs", "Role", "Session", "compare"]

_STEP = "a step of generate"
"""What the ranks say to each other in ``generate``; the first speaks, the others listen."""


WEIGHTS = "the digest of the model"
"""What weights and adapters are called where ranks compare them."""

STORY = "the digest of what the cache was given, and of how it was changed,"
"""What a cache's contents are called there."""


class Role:
    """Who decides what is computed."""

    ALIKE = "every rank calls the model"
    LEADER = "this rank decides"
    FOLLOWER = "the first rank decides"


class Inputs(NamedTuple):
    """What a decoder is called with, the same on all ranks.

    Attributes:
        ids: New tokens ``[B, T]``.
        mask: Which tokens of the whole sequence are no padding, ``[B, P + T]``; ``None`` for all.
        positions: ``[B or 1, T]``; ``None`` for their places.
        rows: Which of the new tokens' rows every rank gets of the result; ``None`` for all.
        cache: Number of the cache; ``None`` for none.
        length: Tokens in that cache.
        heeds: Whether all ranks ask the first one, before each layer of a prompt, whether to go on.
    """

    ids: Tensor
    mask: Tensor | None
    positions: Tensor | None
    rows: tuple[int, ...] | None
    cache: int | None
    length: int
    heeds: bool = False


class Session:
    """What a model has beside itself once it is parallel.

    Args:
        model: A causal language model of transformers.
        family: What is known of it.
        exchanges: Its ranks.
        way: Whether keys or queries go to other ranks where a prompt is sharded; ``None`` for what the schedule says.
        schedule: Schedule of plain causal attention; ``auto`` to have both planned, where the network is known.
        prefill: What the caller calls the two.
    """

    def __init__(
        self, model: Any, family: Family, exchanges: Exchanges, way: Way | None, schedule: str, prefill: str
    ) -> None:
        self.family, self.exchanges = family, exchanges
        self.use(prefill, way, schedule)
        self.windows = windows_of(model.config)
        self.planned = PlannedStrategies(model, exchanges)
        self.device: torch.device = model.device
        self._model, self._weights = model, Weights(model)
        self.role = Role.ALIKE
        self.rows: tuple[int, ...] | None = None
        self.computing = self.streams = self._shards = self._unsettled = False
        self.given: Any = None
        self._last: Division | None = None
        self.saying: list[Any] = []
        self.follow: Callable[[Inputs], ShardedCache | None] = _nothing_to_follow
        self.gives_up: Callable[[], bool] | None = None
        self._caches: weakref.WeakValueDictionary[int, ShardedCache] = weakref.WeakValueDictionary()
        self._made = 0
        self._mask: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the model is in."""
        dtype: torch.dtype = self._model.dtype
        return dtype

    @property
    def fingerprint(self) -> str:
        """The model's type and a digest of its weights and adapters, made anew only when they have changed."""
        weights = sorted(self._weights.summary().items())
        return f"{self.family.model_type}-{hashlib.sha256(str(weights).encode()).hexdigest()[:8]}"

    def use(self, prefill: str, way: Way | None, schedule: str) -> None:
        """From now on shard prompts so; see the class."""
        self.way, self.schedule, self._prefill = way, schedule, prefill

    @property
    def standing(self) -> dict[str, str]:
        """What has to be the same on all ranks in every call, by name."""
        return {WEIGHTS: self.fingerprint, "prefill": self._prefill}

    # -- caches ------------------------------------------------------------------------------------

    def new_cache(self, transient: bool = False) -> ShardedCache:
        """A cache; every rank makes it."""
        if transient:
            return ShardedCache(self, -1, transient)
        cache = ShardedCache(self, self._made, transient)
        self._caches[self._made] = cache
        self._made += 1
        return cache

    @property
    def caches_made(self) -> int:
        """How many caches there were, the same on all ranks outside ``generate``."""
        return self._made

    @caches_made.setter
    def caches_made(self, made: int) -> None:
        self._made = made

    def cache_numbered(self, number: int) -> ShardedCache:
        """The cache that the first rank means, made here where it is new."""
        found = self._caches.get(number)
        if found is None:
            self._made = number
            found = self.new_cache()
        return found

    # -- who tells whom ----------------------------------------------------------------------------

    def tell(self, what: str, *content: Any) -> None:
        """What this rank has decided, where it decides, to all others."""
        if self.role == Role.LEADER and self.exchanges.ranks > 1:
            puts, self.saying = self.saying, []
            exchange(None, plain((puts, what, content)), _STEP)

    def listen(self) -> tuple[tuple[Any, ...], str, tuple[Any, ...]]:
        """What the first rank has decided: what its streamer was given, what is done next, and with what."""
        puts, what, content = from_plain(exchange(None, None, _STEP)[0])
        return puts, what, content

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Inside a call of all ranks, what goes wrong before they have settled is raised on all of them.

        Calls inside a call, where the first rank decides and where the decoder is not computed settle nothing.
        """
        alone = self.exchanges.ranks == 1 or self.given is not None or self.role != Role.ALIKE
        if alone or self._unsettled:
            yield
            return
        self._unsettled = True
        try:
            yield
        except Exception as error:
            if self._unsettled:
                with noting() as noted:
                    raise
                self._agree(None, noted.problem, error)
            raise
        finally:
            self._unsettled = False

    def settle(self, inputs: Inputs) -> None:
        """Let all ranks compute the same; inside :meth:`settling`.

        Raises:
            AgreementError: They were called with different inputs.
            TokenRingError: What another rank refuses.
        """
        if self.role == Role.LEADER:
            self.tell("forward", tuple(inputs._replace(mask=None)), self._tail(inputs.mask))
        elif self.role == Role.ALIKE and self.exchanges.ranks > 1:
            mine = {name: describe(getattr(inputs, each)) for each, name in _NAMES.items()}
            cache = None if inputs.cache is None else self._caches.get(inputs.cache)
            self._agree({**mine, **self.standing, STORY: "" if cache is None else cache.story})

    def _agree(
        self, mine: dict[str, str] | None, problem: TokenRingError | None = None, cause: Exception | None = None
    ) -> None:
        self._unsettled = False
        try:
            everyone = said_by_all("the inputs of the language model", problem, mine)
        except CommunicationError:
            raise
        except TokenRingError as error:
            raise error from cause
        compare([theirs for (theirs,) in everyone], "compute one call of the language model")

    def heard(self, told: tuple[Any, ...], tail: tuple[int, Tensor] | None) -> Inputs:
        """What the first rank told, put together with what it told before."""
        if tail is None:
            self._mask = None
        else:
            kept, rest = tail
            self._mask = rest if not kept or self._mask is None else torch.cat([self._mask[:, :kept], rest], dim=1)
        return Inputs(*told)._replace(mask=self._mask)

    def forget_mask(self) -> None:
        """Begin anew with masks, on all ranks."""
        self._mask = None

    def _tail(self, mask: Tensor | None) -> tuple[int, Tensor] | None:
        """What of a mask is new since the last call: the mask of a long prompt does not travel for every token."""
        before, self._mask = self._mask, None if mask is None else mask.cpu()
        if self._mask is None:
            return None
        if before is not None and before.shape[0] == self._mask.shape[0] and before.shape[1] <= self._mask.shape[1]:
            kept = before.shape[1]
            if torch.equal(before, self._mask[:, :kept]):
                return kept, self._mask[:, kept:].clone()
        return 0, self._mask

    def heed(self) -> None:
        """Ask the first rank whether to go on; all ranks ask, between two layers.

        Raises:
            CancelledError: It was told to give up.
        """
        asked = self.gives_up is not None and self.role != Role.FOLLOWER and self.gives_up()
        if self.exchanges.ranks > 1:
            asked = bool(exchange(None, asked, "a layer of a prompt")[0])
        if asked:
            raise CancelledError("the text was given up while its prompt was read")

    # -- computing ---------------------------------------------------------------------------------

    def compute(self, decoder: Any, inputs: Inputs, cache: ShardedCache, others: dict[str, Any]) -> Any:
        """Call a decoder with this rank's part of what all ranks compute.

        Args:
            decoder: Takes keyword arguments.
            inputs: What all ranks compute.
            cache: Where keys are put.
            others: Further arguments.

        Returns:
            What the decoder returns, with the rows that were asked for.
        """
        ids, past, new = inputs.ids.to(self.device), cache.length, inputs.ids.shape[1]
        spans, sharded = cache.spread(new)
        everything = ((past, past + new),) * self.exchanges.ranks
        queries = tuple((span.start, span.stop) for span in spans) if sharded else everything
        own = queries[self.exchanges.rank]
        placement, tokens = cache.expect(spans, own), describe(inputs.ids)  # before the device has anything to do
        positions = torch.arange(past, past + new)[None] if inputs.positions is None else inputs.positions
        positions = positions.to(self.device)
        part = slice(own[0] - past, own[1] - past)
        self.computing, self._last = True, Division(past, new, queries, sharded)
        try:
            planned = self.schedule == AUTO
            way, schedule = self.way, self.schedule
            if planned and sharded:
                way, schedule = self.planned.of(ids.shape[0], past, new)
            forward = Forward(
                past=past,
                new=new,
                queries=queries,
                sharded=sharded,
                placement=placement,
                valid=_valid(inputs.mask, self.device),
                last_position=positions.amax(dim=-1, keepdim=True),
                cache=cache,
                exchanges=self.exchanges,
                family=self.family,
                way=way,
                schedule=schedule,
                planned=planned,
                heed=self.heed if inputs.heeds and new > few_tokens(self.exchanges.ranks) else None,
            )
            with entered(forward), torch.no_grad():
                output = decoder(input_ids=ids[:, part], position_ids=positions[:, part], **others)
                if not self._shards:
                    output.last_hidden_state = gather_rows(
                        output.last_hidden_state, inputs.rows, self._last, self.exchanges
                    )
        except BaseException:
            cache.rollback()
            raise
        self.computing = False
        if not cache.transient:
            cache.commit(placement, tokens)
        return output

    @contextmanager
    def keeping_shards(self) -> Iterator[None]:
        """Inside, results are of this rank's tokens only."""
        self._shards = True
        try:
            yield
        finally:
            self._shards = False

    @contextmanager
    def instead_of_decoder(self, output: Any) -> Iterator[None]:
        """Inside, the decoder is not computed: this is what it returns."""
        self.given = output
        try:
            yield
        finally:
            self.given = None

    @property
    def own_rows(self) -> range:
        """Which of the new tokens of the last call this rank computed."""
        assert self._last is not None
        start, stop = self._last.queries[self.exchanges.rank]
        return range(start - self._last.past, stop - self._last.past)

    def rows_of_all(self, values: Tensor) -> Tensor:
        """Values ``[B, T, X]`` of all new tokens of the last call, from those ``[B, T_r, X]`` of each rank."""
        assert self._last is not None
        return gather_rows(values, None, self._last, self.exchanges)


def compare(everyone: list[dict[str, str]], doing: str) -> None:
    """Refuse what is not the same on all ranks, as :func:`~tokenring_xdit.hosts.agreement.refuse_differing`."""
    refuse_differing(everyone, doing, remedies=_REMEDIES)


def _nothing_to_follow(_: Inputs) -> ShardedCache | None:
    raise AssertionError("the decoder has not been replaced")


_REMEDIES = {
    WEIGHTS: "load the same weights and adapters everywhere",
    STORY: "crop, reorder, select and load caches alike everywhere",
}

_NAMES = {
    "ids": "input_ids",
    "mask": "attention_mask",
    "positions": "position_ids",
    "rows": "logits_to_keep",
    "cache": "the cache",
    "length": "the length of the cache",
}


def _valid(mask: Tensor | None, device: torch.device) -> Tensor | None:
    return None if mask is None or bool(mask.all()) else mask.to(device=device, dtype=torch.bool)
