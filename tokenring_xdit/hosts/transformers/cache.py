"""A cache whose keys stay where they were computed: a share of the tokens on each rank."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from tokenring_xdit.attention.buffers import outlasting
from tokenring_xdit.compat.transformers import query_count
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.agreement import describe
from tokenring_xdit.hosts.transformers.turns import refuse_inside
from tokenring_xdit.planning.layer_turn import few_tokens
from tokenring_xdit.planning.placement import BLOCK, Held, Placement

if TYPE_CHECKING:
    from tokenring_xdit.hosts.transformers.session import Session

__all__ = ["ShardedCache", "ShardedLayer", "refuse_foreign_cache"]

_REGRET, _GUESSED = 64, 512
"""Tokens of a window that are kept longer than needed, so that a cache can be cropped by that many; and at most as many
as one call brought, as guesses are taken back."""


class ShardedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer that this rank holds, in ascending order of their tokens.

    Args:
        cache: The cache it belongs to.
        window: How many keys a query of this layer sees; ``None`` for all.

    Attributes:
        first: The first token whose keys are still held, by whatever rank.
        held: Tokens that this rank holds.
    """

    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, cache: ShardedCache, window: int | None) -> None:
        super().__init__()
        self.cache, self.window = cache, window
        self.is_sliding = window is not None
        self.first = self.held = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with no keys."""
        with outlasting():
            self.keys, self.values = (t.new_empty(*t.shape[:2], 0, t.shape[-1]) for t in (key_states, value_states))
        self.is_initialized = True

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a layer may be compiled round it
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep this rank's share of new keys, and give all that it holds.

        Args:
            key_states: ``[B, Hkv, T, D]``: of the tokens that this rank computes.
            value_states: Their values.
            *args: What layers say besides, of no use here.
            **kwargs: The same.

        Returns:
            Keys and values ``[B, Hkv, S_r, D]`` of this rank.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for start, stop in self.cache.kept:
            self._append(key_states[:, :, start:stop], value_states[:, :, start:stop])
        return self.keys[:, :, : self.held], self.values[:, :, : self.held]

    def _append(self, keys: Tensor, values: Tensor) -> None:
        end = self.held + keys.shape[2]
        if end > self.keys.shape[2]:
            room = end + (BLOCK if self.held else 0)
            for name in ("keys", "values"):
                old = getattr(self, name)
                with outlasting():
                    new = old.new_empty(*old.shape[:2], room, old.shape[-1])
                new[:, :, : self.held] = old[:, :, : self.held]
                setattr(self, name, new)
        self.keys[:, :, self.held : end] = keys
        self.values[:, :, self.held : end] = values
        self.held = end

    def keep(self, held: int) -> None:
        """Forget all but the first ``held`` of the tokens that this rank holds."""
        self.held = min(self.held, held)

    def forget_before(self, first: int, placement: Placement, rank: int) -> None:
        """Forget what no later query sees."""
        gone = placement.count(rank, self.first, first)
        self.first = first
        if gone and self.is_initialized:
            with outlasting():
                self.keys, self.values = (t[:, :, gone : self.held].clone() for t in (self.keys, self.values))
            self.held -= gone

    def select(self, rows: Tensor) -> None:
        """Keep items of the batch, in the order given."""
        if self.is_initialized:
            with outlasting():
                self.keys, self.values = (t.index_select(0, rows.to(t.device)) for t in (self.keys, self.values))

    def drop(self) -> None:
        """Forget everything."""
        self.keys = self.values = None  # type: ignore[assignment]  # as transformers has it
        self.is_initialized, self.first, self.held = False, 0, 0

    def get_mask_sizes(self, queries: int | Tensor) -> tuple[int, int]:
        """What transformers makes masks of; ours are made of the places of the tokens."""
        return self.cache.length + query_count(queries), 0

    def get_seq_length(self) -> int:
        """Tokens of the whole sequence, on all ranks together."""
        return self.cache.length

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, as it was called before 5.24."""
        return -1

    def reset(self) -> None:
        """Forget everything, in all layers: they belong together."""
        self.cache.reset()


class ShardedCache(Cache):  # type: ignore[misc]
    """Keys and values of a sequence, of which each rank holds a share; made by ``model.tokenring.cache()``.

    Its length is that of the whole sequence. New keys stay with the rank that computed them where a prompt is sharded,
    and go to the ranks in blocks where all ranks compute the same tokens. Layers with a window forget the rest.

    Args:
        session: The model's.
        number: Which cache of the model this is, the same on all ranks.
        transient: Whether a layer's keys are needed in that layer only.

    Attributes:
        placement: Which rank holds which tokens.
        returns_to: A length that it will be cropped to, whatever follows: layers with a window keep what that needs.
            ``None`` for none; the same on all ranks.
        dtype: What the model was in when it brought tokens; ``None`` where it has not.
        story: A digest of what was put in and changed, by which ranks find out whether theirs belong together.
    """

    def __init__(self, session: Session, number: int, transient: bool = False) -> None:
        super().__init__(layers=[ShardedLayer(self, window) for window in session.windows])
        self.session, self.number, self.transient = session, number, transient
        self.placement = Placement(session.exchanges.ranks)
        self.returns_to: int | None = None
        self.dtype: torch.dtype | None = None
        self.story = ""
        self.kept: list[tuple[int, int]] = []

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return self.placement.length

    @property
    def batch(self) -> int | None:
        """Items; ``None`` where nothing was put in."""
        keys = self.layers[0].keys if self.length else None
        return None if keys is None else keys.shape[0]

    def held(self) -> list[int]:
        """Tokens whose keys this rank holds, in each layer."""
        return [layer.held for layer in self.layers]

    def spread(self, tokens: int) -> tuple[list[Held], bool]:
        """Which rank will hold which of the next tokens of one call, and whether each rank computes its own only."""
        sharded = tokens > few_tokens(self.placement.ranks) and self.placement.ranks > 1
        return self.placement.split(tokens) if sharded else self.placement.deal(tokens), sharded

    def expect(self, spans: list[Held], own: tuple[int, int]) -> Placement:
        """Say what the next updates bring.

        Args:
            spans: Which rank keeps which of the new tokens.
            own: The tokens that this rank computes.

        Returns:
            Where all keys will be.
        """
        rank = self.session.exchanges.rank
        self.kept = [(start - own[0], stop - own[0]) for start, stop, owner in spans if owner == rank and start < stop]
        return self.placement.plus(spans)

    def commit(self, placement: Placement, tokens: str) -> None:
        """What was brought stays.

        Args:
            placement: Where all keys are now.
            tokens: What they are of, in words.
        """
        self._note(tokens)
        brought = placement.length - self.placement.length
        regret = max(_REGRET, brought) if brought <= _GUESSED else _REGRET
        self.placement, self.kept, self.dtype = placement, [], self.session.dtype
        length = placement.length if self.returns_to is None else min(placement.length, self.returns_to)
        for layer in self.layers:
            if layer.window is not None:
                needed = length - layer.window + 1 - regret
                if needed - layer.first >= _REGRET:
                    layer.forget_before(needed, placement, self.session.exchanges.rank)

    def rollback(self) -> None:
        """What was brought goes, after a call that failed."""
        self.kept = []
        rank = self.session.exchanges.rank
        for layer in self.layers:
            if self.length:
                layer.keep(self.placement.count(rank, layer.first))
            else:
                layer.drop()  # its room is for as many items as there were

    def _note(self, what: str) -> None:
        self.story = hashlib.sha256(f"{self.story} {what}".encode()).hexdigest()[:8]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens.

        Args:
            tokens_to_remove: How many, as a negative number; a positive one is how many tokens stay.

        Raises:
            UnsupportedError: Layers with a window have forgotten what the tokens before would see.
        """
        length = self.length + tokens_to_remove if tokens_to_remove <= 0 else min(tokens_to_remove, self.length)
        if length == self.length:
            return
        layer = self._forgetful(length)
        if layer is not None:
            raise UnsupportedError(
                f"this cache cannot be cropped from {self.length} to {length} tokens: layers with a window of "
                f"{layer.window} have forgotten those before {layer.first}; crop at most {_REGRET} tokens, or "
                "compute the sequence anew"
            )
        self.session.tell("crop", self.number, tokens_to_remove)
        self.placement = self.placement.cropped(max(length, 0))
        self._note(f"{length} tokens")
        self.rollback()

    def can_be_cropped(self, length: int) -> bool:
        """Whether all layers still hold what the tokens after the first ``length`` would see."""
        return self._forgetful(length) is None

    def _forgetful(self, length: int) -> ShardedLayer | None:
        """A layer that has forgotten what the tokens after the first ``length`` would see."""
        windows = (layer for layer in self.layers if layer.window is not None and layer.first)
        return next((layer for layer in windows if length - layer.window + 1 < layer.first), None)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the items of the batch in another order, as beam search does."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each item of the batch."""
        keys = self.layers[0].keys
        if keys is not None:
            self.batch_select_indices(torch.arange(keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some items of the batch, in the order given."""
        rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
        self.session.tell("select", self.number, rows.cpu())
        self._note(describe(rows))
        for layer in self.layers:
            layer.select(rows)

    def reset(self) -> None:
        """Forget everything."""
        self.session.tell("reset", self.number, None)
        self.story, self.dtype = "", None
        self.placement = Placement(self.placement.ranks)
        for layer in self.layers:
            layer.drop()

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedCache:
        """Another cache with the same keys, as for several answers to one prompt; every rank makes it."""
        refuse_inside("a cache is copied")
        other = self.session.new_cache()
        other.placement, other.story, other.dtype = self.placement, self.story, self.dtype
        for own, new in zip(self.layers, other.layers, strict=True):
            new.first, new.held, new.is_initialized = own.first, own.held, own.is_initialized
            if own.is_initialized:
                with outlasting():
                    new.keys, new.values = own.keys.clone(), own.values.clone()
        return other

    def __reduce__(self) -> Any:
        raise UnsupportedError("a sharded cache was pickled: write each rank's share with cache.save(folder)")

    def apply(self, what: str, value: Any) -> None:
        """Do what the first rank did with its cache."""
        if what == "crop":
            self.crop(value)
        elif what == "select":
            self.batch_select_indices(value)
        else:
            self.reset()

    def save(self, folder: str | Path) -> Path:
        """Write this rank's share into a folder; every rank calls it.

        Returns:
            The file.
        """
        rank, ranks = self.session.exchanges.rank, self.placement.ranks
        tensors = {}
        for number, layer in enumerate(self.layers):
            if layer.is_initialized:
                tensors[f"{number}.keys"] = layer.keys[:, :, : layer.held].contiguous()
                tensors[f"{number}.values"] = layer.values[:, :, : layer.held].contiguous()
        facts = {
            "model": self.session.fingerprint,
            "spans": json.dumps(self.placement.spans),
            "first": json.dumps([layer.first for layer in self.layers]),
            "story": self.story,
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"keys-{rank}-of-{ranks}.safetensors"
        save_file(tensors, path, facts)
        return path

    def load(self, folder: str | Path) -> ShardedCache:
        """Take what :meth:`save` wrote, on as many ranks; every rank calls it.

        Returns:
            This cache.

        Raises:
            ConfigurationError: There is no such file for this number of ranks, or it is another model's.
        """
        rank, ranks = self.session.exchanges.rank, self.placement.ranks
        path = Path(folder) / f"keys-{rank}-of-{ranks}.safetensors"
        if not path.is_file():
            found = ", ".join(sorted(file.name for file in Path(folder).glob("keys-*"))) or "no keys"
            raise ConfigurationError(
                f"{folder} has {found}, and rank {rank} of {ranks} needs {path.name}: load a cache on as many ranks as "
                "saved it"
            )
        with outlasting(), safe_open(path, "pt", device=str(self.session.device)) as file:
            facts = file.metadata()
            if facts["model"] != self.session.fingerprint:
                raise ConfigurationError(
                    f"{path} was saved by another model ({facts['model']}), and this is {self.session.fingerprint}"
                )
            names = set(file.keys())
            for number, (layer, first) in enumerate(zip(self.layers, json.loads(facts["first"]), strict=True)):
                layer.drop()
                if f"{number}.keys" in names:
                    layer.keys, layer.values = file.get_tensor(f"{number}.keys"), file.get_tensor(f"{number}.values")
                    layer.is_initialized, layer.held, layer.first = True, layer.keys.shape[2], first
        self.placement = Placement(ranks, tuple(Held(*span) for span in json.loads(facts["spans"])))
        self.story, self.dtype = facts.get("story", ""), self.session.dtype  # which the fingerprint tells
        return self


def refuse_foreign_cache(cache: Any) -> None:
    """Refuse a cache that is not sharded.

    Raises:
        UnsupportedError: It is none of :class:`ShardedCache`, and not ``None``.
    """
    if cache is not None and not isinstance(cache, ShardedCache):
        raise UnsupportedError(
            f"a {type(cache).__name__} was passed, whose keys lie on one rank: pass model.tokenring.cache(), or none"
        )
