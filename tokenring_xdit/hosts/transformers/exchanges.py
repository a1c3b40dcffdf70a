"""What travels where attention needs keys of other ranks: keys, queries and partial outputs, or partial outputs only.

All places are known to all ranks, so each works out by itself what comes and what goes; nothing is negotiated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import exchange
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.merge import Accumulator, merge
from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts.transformers.kernels import Scores, attend
from tokenring_xdit.hosts.transformers.pairs import Plan, Slice
from tokenring_xdit.hosts.transformers.travel import Travel
from tokenring_xdit.planning.phases import candidates
from tokenring_xdit.planning.straight import ROUNDS_AT_ONCE, LayerTurn
from tokenring_xdit.schedule import Channel

__all__ = ["Exchanges", "attend_slice"]

_PATIENCE = 10.0
"""Seconds for which the first rank plans a prompt, about, while the others wait: of many ranks it takes minutes."""

_CHANNELS = (Channel.Q, Channel.KV, Channel.O)


class _Post:
    """Transfers under way: what comes, and what has to be kept until it has gone."""

    def __init__(self, group: RingGroup, recvs: Sequence[Parcel], sends: Sequence[Parcel]) -> None:
        self.group = group
        self.coming = [parcel.tensor for parcel in recvs]
        self._going = [parcel.tensor for parcel in sends]
        works = group.messages.post(recvs, sends)
        self._recvs: list[Handle] = [*works[: len(recvs)]]
        self._sends: list[Handle] = [*works[len(recvs) :]]

    def arrived(self) -> list[Tensor]:
        """What came, once it is here."""
        if self._recvs:
            self.group.messages.wait_for(self._recvs, max(tensor.nbytes for tensor in self.coming))
            self._recvs = []
        return self.coming

    def gone(self) -> None:
        """Wait until what goes may be overwritten."""
        if self._sends:
            self.group.messages.wait_for(self._sends, max(tensor.nbytes for tensor in self._going))
            self._sends, self._going = [], []


class Exchanges:
    """The ranks of a model, and what they send each other; made by all of them together.

    Args:
        group: The process group; ``None`` is the default group.
        device: Where the model is.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self.group = RingGroup.of(group)
        exchange(group, None, "the beginning of context parallelism")
        if self.ranks > 1:
            self.group.transports.open([(channel, False) for channel in _CHANNELS], device)

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self.group.rank

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.group.world_size

    @property
    def bytes_sent(self) -> int:
        """What this rank has sent for attention since the program started."""
        return self.group.bytes_sent

    def gather(self, own: Tensor, what: str) -> list[Tensor]:
        """The tensors of all ranks, in order of rank; one collective.

        Args:
            own: Of one shape on all ranks.
            what: What is gathered, for messages.
        """
        if self.ranks == 1:
            return [own]
        with self._call(what):
            own = own.contiguous()[None]
            coming = own.new_empty(self.ranks, *own.shape[1:])
            self.group.messages.all_gather(Channel.O.value, coming, own)
        return [*coming]

    def plan(self, turn: LayerTurn, dtype: torch.dtype, device: torch.device) -> str | None:
        """The strategy that is predicted to be the fastest for a layer; all ranks ask, and hear the first one's word.

        Args:
            turn: What is computed.
            dtype: Dtype of queries and keys.
            device: Where.

        Returns:
            What :func:`~tokenring_xdit.planning.phases.candidates` calls it; ``None`` where nothing is known of the
            network.
        """
        with self._call("choosing a strategy"):
            return AutoSchedule.of(self.group).planned(
                lambda network, machine, effects: candidates(turn, network, machine, effects, _PATIENCE)[0].name,
                device,
                dtype,
                turn.heads,
                turn.head_dim,
            )

    def attend_everywhere(
        self, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of queries that every rank has, over keys that each holds a part of: one collective.

        Partial outputs are folded in order of rank, so that all ranks have the same bits.

        Args:
            q: ``[B, H, T, D]``, the same on all ranks.
            k: This rank's keys ``[B, Hkv, S_r, D]``.
            v: This rank's values.
            plan: Who sees what; all ranks have the same queries.
            scores: What is done to scores.
            valid: Which tokens of the sequence are no padding.

        Returns:
            Output ``[B, H, T, Dv]`` and log-sum-exp ``[B, H, T]``, fp32.
        """
        own = attend_slice(q, k, v, plan.queries[0][0], plan.seen[0][self.rank], scores, valid)
        packed = torch.zeros(*q.shape[:-1], v.shape[-1] + 1, dtype=torch.float32, device=q.device)
        packed[..., -1] = -math.inf
        if own is not None:
            packed[..., :-1], packed[..., -1] = own
        parts = [(part[..., :-1], part[..., -1]) for part in self.gather(packed, "attention of a few tokens")]
        return merge(*parts[0], parts[1:], torch.float32) if len(parts) > 1 else parts[0]

    def attend_sharded(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Plan,
        scores: Scores,
        valid: Tensor | None,
        travel: Travel,
    ) -> tuple[Tensor, Tensor]:
        """Attention of this rank's queries over the keys of all ranks.

        Args:
            q: This rank's queries ``[B, H, T_r, D]``.
            k: This rank's keys ``[B, Hkv, S_r, D]``.
            v: This rank's values.
            plan: Who sees what.
            scores: What is done to scores.
            valid: Which tokens of the sequence are no padding.
            travel: Whether keys go to queries, or queries to keys.

        Returns:
            Output ``[B, H, T_r, Dv]`` and log-sum-exp ``[B, H, T_r]``.
        """
        total = Accumulator((*q.shape[:-1], v.shape[-1]), q.device)
        with self._call("attention"):
            run = (
                self._with_keys
                if plan.travelling(travel, q.shape[1], k.shape[1]) is Travel.KEYS
                else self._with_queries
            )
            run(total, q, k, v, plan, scores, valid)
        return total.result(q.dtype)

    def _with_keys(
        self, total: Accumulator, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores, valid: Tensor | None
    ) -> None:
        """Keys and values go straight to the ranks whose queries see them, one rank a round."""
        rank, ranks = self.rank, self.ranks

        def post(distance: int) -> _Post:
            source, target = (rank - distance) % ranks, (rank + distance) % ranks
            coming, going = plan.seen[rank][source], plan.seen[target][rank]
            shape = (*k.shape[:2], coming.tokens)
            memory = [k.new_empty(*shape, t.shape[-1]) for t in (k, v) if coming.tokens]
            parts = [_part(t, going).contiguous() for t in (k, v) if going.tokens]
            return self._post(Channel.KV, memory, source, parts, target)

        rounds = _ahead(post, ranks)
        _add(total, attend_slice(q, k, v, plan.queries[rank][0], plan.seen[rank][rank], scores, valid))
        for distance, now in enumerate(rounds, 1):
            seen = plan.seen[rank][(rank - distance) % ranks]
            came = now.arrived()
            if came:
                whole = Slice(0, seen.tokens, seen.pieces)
                _add(total, attend_slice(q, came[0], came[1], plan.queries[rank][0], whole, scores, valid))
            now.gone()

    def _with_queries(
        self, total: Accumulator, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scores: Scores, valid: Tensor | None
    ) -> None:
        """Queries go straight to the ranks whose keys they see; outputs and log-sum-exps come back."""
        rank, ranks = self.rank, self.ranks
        own = q.contiguous()

        def post(distance: int) -> _Post:
            source, target = (rank + distance) % ranks, (rank - distance) % ranks
            start, stop = plan.queries[source]
            memory = [q.new_empty(*q.shape[:2], stop - start, q.shape[-1])] if plan.seen[source][rank].tokens else []
            return self._post(Channel.Q, memory, source, [own] if plan.seen[rank][target].tokens else [], target)

        def send_back(distance: int, asked: list[Tensor]) -> _Post:
            source, target = (rank + distance) % ranks, (rank - distance) % ranks
            parts: list[Tensor] = []
            if asked:
                shape = (*asked[0].shape[:-1], v.shape[-1])
                found = attend_slice(asked[0], k, v, plan.queries[source][0], plan.seen[source][rank], scores, valid)
                if found is None:
                    found = q.new_zeros(shape), torch.full(shape[:-1], -math.inf, device=q.device)
                parts = [found[0].to(q.dtype).contiguous(), found[1].contiguous()]
            memory: list[Tensor] = []
            if plan.seen[rank][target].tokens:
                memory = [
                    q.new_empty(*q.shape[:-1], v.shape[-1]),
                    torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device),
                ]
            return self._post(Channel.O, memory, target, parts, source)

        rounds = _ahead(post, ranks)
        _add(total, attend_slice(q, k, v, plan.queries[rank][0], plan.seen[rank][rank], scores, valid))
        returning: list[_Post] = []
        for distance, now in enumerate(rounds, 1):
            returning.append(send_back(distance, now.arrived()))
            now.gone()
            if distance > ROUNDS_AT_ONCE:
                _merge(total, returning.pop(0))
        for last in returning:
            _merge(total, last)

    def _post(
        self, channel: Channel, memory: Sequence[Tensor], source: int, parts: Sequence[Tensor], target: int
    ) -> _Post:
        recvs = [Parcel(channel.value, tensor, source) for tensor in memory]
        return _Post(self.group, recvs, [Parcel(channel.value, tensor, target) for tensor in parts])

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        """A call of all ranks; a failure in it reaches all of them, and names the rank at fault."""
        self.group.begin()
        try:
            yield
        except Broken as error:
            raise self.group.failure(f"waited in {what}", error) from error
        except TokenRingError:
            raise
        except BaseException as error:
            if self.ranks > 1:
                self.group.fail(f"rank {self.group.names[self.rank]} failed in {what}: {in_words(error)}")
            raise


def _ahead(post: Callable[[int], _Post], ranks: int) -> Iterator[_Post]:
    """Each round in order, the next ones posted before it is needed."""
    posted = deque(post(distance) for distance in range(1, min(ranks, ROUNDS_AT_ONCE + 1)))

    def rounds() -> Iterator[_Post]:
        following = range(ROUNDS_AT_ONCE + 1, ranks)
        for distance in range(1, ranks):
            yield posted.popleft()
            if distance <= len(following):
                posted.append(post(following[distance - 1]))

    return rounds()


def _part(tensor: Tensor, part: Slice) -> Tensor:
    return tensor[:, :, part.offset : part.offset + part.tokens]


def attend_slice(
    q: Tensor, k: Tensor, v: Tensor, q_start: int, seen: Slice, scores: Scores, valid: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Attention over a slice of keys, past and new ones apart, so that each may go to a fused kernel."""
    if not seen.tokens or not q.shape[2]:
        return None
    before = [piece for piece in seen.pieces if piece[1] <= q_start]
    after = [piece for piece in seen.pieces if piece[1] > q_start]
    if after and after[0][0] < q_start:
        before.append((after[0][0], q_start))
        after[0] = (q_start, after[0][1])
    total = Accumulator((*q.shape[:-1], v.shape[-1]), q.device)
    offset = seen.offset
    for pieces in (before, after):
        count = sum(stop - start for start, stop in pieces)
        part = slice(offset, offset + count)
        offset += count
        if count:
            counting = None if valid is None else torch.cat([valid[:, low:high] for low, high in pieces], dim=1)
            _add(total, attend(q, k[:, :, part], v[:, :, part], q_start, pieces, scores, counting))
    return total.result(torch.float32)


def _add(total: Accumulator, found: tuple[Tensor, Tensor] | None) -> None:
    if found is not None:
        total.add(*found, owned=True)


def _merge(total: Accumulator, post: _Post) -> None:
    came = post.arrived()
    if came:
        total.add(came[0], came[1], owned=True)
    post.gone()
