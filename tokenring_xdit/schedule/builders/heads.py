"""Each rank attends all tokens in a share of the heads, as in Ulysses (arXiv 2309.14509), without its barriers.

Ulysses is four collectives with one attention between them, for heads that divide by the ranks. The same transfers
as a schedule overlap: own queries attend keys as these come, and other ranks' queries go home one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenring_xdit.schedule.algorithm import Guess, algorithm
from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
    Block,
    Channel,
    Exchange,
    Merge,
    Piece,
    Program,
    Schedule,
    Transfer,
    cut,
    kv_block,
    o_block,
    q_block,
)

__all__ = ["heads"]

_Share = tuple[Piece, ...]


def _worth(world_size: int, count: int) -> tuple[str, ...]:
    """Not where more than half of the ranks would have no head."""
    return ("", "peers=1") if world_size <= 2 * count else ()


@algorithm(cuts_heads=True, worth=_worth, guess=Guess(1))
def heads(world_size: int, count: int = 0, *, chunks: int = 1, peers: int | None = None) -> Schedule:
    """A share of the heads for each rank: queries, keys and outputs of it straight to and from every peer.

    ``4 (N - 1) / N`` blocks in all, the least of all schedules. Where heads do not divide by the ranks some have one
    more to attend, and with fewer heads than ranks some have none.

    Where all transfers share a port they would all arrive late if they all went at once. With ``peers`` they go in
    waves, and what has come is attended while the next wave travels.

    Args:
        world_size: Number of ranks.
        count: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that queries travel and are returned in.
        peers: Of a wave; left out, there is one.
    """
    shares = _shares(world_size, count)
    wave = peers or world_size
    programs = tuple(_PlannedRank(rank, world_size, shares, cut(chunks)).program(wave) for rank in range(world_size))
    return Schedule("heads", world_size, programs)


def _shares(world_size: int, count: int) -> tuple[_Share, ...]:
    """Which heads each rank attends, in pieces that cut query heads where they cut their key heads."""
    if count % world_size == 0:  # any cut, too
        return tuple((piece,) for piece in cut(world_size))
    groups = cut(count)
    return tuple(groups[slice(*Piece(rank, world_size).bounds(count))] for rank in range(world_size))


class _PlannedRank:
    """Writes the program of a rank. Peers are known by their distance, so that all ranks say the same at once."""

    def __init__(self, rank: int, world_size: int, shares: tuple[_Share, ...], pieces: tuple[Piece, ...]) -> None:
        self._rank, self._world_size, self._shares, self._pieces = rank, world_size, shares, pieces
        self._actions: list[Action] = []
        self._merges: list[Action] = []

    def program(self, wave: int) -> Program:
        """With this many peers in a wave."""
        peers = range(1, self._world_size)
        waves = [peers[start : start + wave] for start in range(0, len(peers), wave)]
        if waves:
            self._fetch(waves[0])
        self._attend(0, Piece(), [0])
        for index, coming in enumerate(waves):
            here = range(coming.start)  # this rank, and those before
            for peer in coming:
                for piece in self._pieces:
                    self._attend(peer, piece, here)
                if peer == coming.start and index + 1 < len(waves):  # not later, or the links would be idle
                    self._fetch(waves[index + 1])
            last = index + 1 == len(waves)
            for piece in self._pieces:
                for peer in range(1, coming.stop):
                    self._attend(peer, piece, coming)
                    if last:
                        self._return(peer, piece)
            self._attend(0, Piece(), coming)
        return (*self._actions, *self._merges)

    def _fetch(self, wave: range) -> None:
        """Queries first: they attend the keys that are here while those behind them travel."""
        recvs, sends = [], []
        for distance in wave:
            source, target = self._source(distance), self._target(distance)
            recvs += [Transfer(block, source) for block in self._travelling(source, self._rank)]
            sends += [Transfer(block, target) for block in self._travelling(self._rank, target)]
        self._exchange(Channel.KV, recvs, sends)

    def _travelling(self, owner: int, host: int) -> list[Block]:
        """What a rank sends to another that attends it."""
        share = self._shares[host]
        queries = [q_block(owner, tokens=piece, heads=heads) for piece in self._pieces for heads in share]
        return queries + [kv_block(owner, heads=heads) for heads in share]

    def _attend(self, peer: int, tokens: Piece, keys: Iterable[int]) -> None:
        """Queries of a peer to keys of several, each by its distance."""
        for share in self._shares[self._rank]:
            query = q_block(self._source(peer), tokens=tokens, heads=share)
            self._actions.extend(Attend(query, kv_block(self._source(key), heads=share)) for key in keys)

    def _return(self, distance: int, tokens: Piece) -> None:
        source, target = self._source(distance), self._target(distance)
        home = [o_block(self._rank, target, tokens=tokens, heads=share) for share in self._shares[target]]
        away = [o_block(source, self._rank, tokens=tokens, heads=share) for share in self._shares[self._rank]]
        self._exchange(Channel.O, [Transfer(o, target) for o in home], [Transfer(o, source) for o in away])
        self._merges.extend(Merge(partial) for partial in home)

    def _exchange(self, channel: Channel, recvs: list[Transfer], sends: list[Transfer]) -> None:
        if recvs or sends:
            self._actions.append(Exchange(channel, tuple(recvs), tuple(sends)))

    def _source(self, distance: int) -> int:
        return (self._rank - distance) % self._world_size

    def _target(self, distance: int) -> int:
        return (self._rank + distance) % self._world_size
