"""Causal attention in equal shares although shards are contiguous: keys of near pairs travel, queries of far ones do.

Under a causal mask the last rank's queries see everything and the first rank's keys are seen by everybody. So the
pair of a query block and a key block that are less than half the ranks apart is attended by the owner of the queries,
and one that is farther apart by the owner of the keys: the first ranks, who have few keys to look at, work for the
last ones. The idea is that of DistFlashAttn (arXiv 2310.03294), where ranks that have nothing to do in a step help
others.

Each rank attends N / 2 pairs of blocks, a rank's own pair counted half: of N - 1 distances those below N / 2 cost
the rank of the queries, those above it the rank of the keys, and of the one that is N / 2 each of both takes half.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenring_xdit.schedule.algorithm import Guess, Look, algorithm
from tokenring_xdit.schedule.plan import (
    WHOLE,
    Action,
    Attend,
    Channel,
    Exchange,
    Mask,
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

__all__ = ["near_far"]


@dataclass(frozen=True)
class _Pair:
    """What is attended of the queries of one rank and the keys of an earlier one, at one of the two.

    Attributes:
        distance: How many ranks the two are apart.
        queries: Which tokens of the queries.
        heads: Which heads of both.
    """

    distance: int
    queries: Piece = WHOLE
    heads: Piece = WHOLE


@algorithm(masks=[Mask.CAUSAL], cuts_heads=True, guess=Guess(0, "chunks=2"), look=Look("teal", "star", "dot"))
def near_far(world_size: int, heads: int = 0, *, chunks: int = 1) -> Schedule:
    """Causal, with equal work for all: keys to the next half of the ranks, queries and outputs beyond.

    For an even number of ranks the pairs that are half of them apart are shared by heads, or by tokens of the queries
    where the number of heads is odd.

    Args:
        world_size: Number of ranks.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that a block travels, is attended and is returned in.
    """
    near, far = _pairs(world_size, heads)
    programs = tuple(_program(rank, world_size, near, far, chunks) for rank in range(world_size))
    return Schedule("near_far", world_size, programs, Mask.CAUSAL)


def _pairs(world_size: int, heads: int) -> tuple[list[_Pair], list[_Pair]]:
    """What the owners of the queries attend, and what the owners of the keys do, of every rank and an earlier one."""
    near = [_Pair(distance) for distance in range(1, (world_size + 1) // 2)]
    far = [_Pair(distance) for distance in range(world_size // 2 + 1, world_size)]
    if world_size % 2 == 0:
        middle = world_size // 2
        halves = [_Pair(middle, queries=half) if heads % 2 else _Pair(middle, heads=half) for half in cut(2)]
        near, far = [*near, halves[0]], [halves[1], *far]
    return near, far


def _program(rank: int, world_size: int, near: list[_Pair], far: list[_Pair], chunks: int) -> Program:
    # A rank has keys of earlier ones and shows its own to later ones; queries go the other way.
    earlier, later = range(rank), range(rank + 1, world_size)
    actions: list[Action] = []
    returns: list[Action] = []
    # Queries leave first, as what they are attended for has the longer way.
    for chunk in range(chunks):
        coming = [(rank + p.distance, _queries(p, chunk, chunks), p) for p in far if rank + p.distance in later]
        going = [(rank - p.distance, _queries(p, chunk, chunks), p) for p in far if rank - p.distance in earlier]
        actions += _exchange(
            Channel.Q,
            [Transfer(q_block(peer, tokens=tokens, heads=p.heads), peer) for peer, tokens, p in coming],
            [Transfer(q_block(rank, tokens=tokens, heads=p.heads), peer) for peer, tokens, p in going],
        )
    for piece in cut(chunks):
        actions += _exchange(
            Channel.KV,
            [
                Transfer(kv_block(rank - p.distance, tokens=piece, heads=p.heads), rank - p.distance)
                for p in near
                if rank - p.distance in earlier
            ],
            [
                Transfer(kv_block(rank, tokens=piece, heads=p.heads), rank + p.distance)
                for p in near
                if rank + p.distance in later
            ],
        )
    actions.append(Attend(q_block(rank), kv_block(rank), Mask.CAUSAL))
    # What has to be returned comes before what stays, which fills the time of the way.
    for chunk in range(chunks):
        for p in far:
            tokens, visitor, host = _queries(p, chunk, chunks), rank + p.distance, rank - p.distance
            if visitor in later:
                away = o_block(visitor, rank, tokens=tokens, heads=p.heads)
                actions.append(Attend(q_block(visitor, tokens=tokens, heads=p.heads), kv_block(rank, heads=p.heads)))
                actions += _exchange(Channel.O, [], [Transfer(away, visitor)])
            if host in earlier:
                home = o_block(rank, host, tokens=tokens, heads=p.heads)
                actions += _exchange(Channel.O, [Transfer(home, host)], [])
                returns.append(Merge(home))
    for piece in cut(chunks):
        for p in near:
            if rank - p.distance in earlier:
                queries = q_block(rank, tokens=p.queries, heads=p.heads)
                actions.append(Attend(queries, kv_block(rank - p.distance, tokens=piece, heads=p.heads)))
    return (*actions, *returns)


def _queries(pair: _Pair, chunk: int, chunks: int) -> Piece:
    """One of several pieces of the tokens of a pair's queries."""
    return Piece(pair.queries.index * chunks + chunk, pair.queries.count * chunks)


def _exchange(channel: Channel, recvs: list[Transfer], sends: list[Transfer]) -> list[Action]:
    return [Exchange(channel, tuple(recvs), tuple(sends))] if recvs or sends else []
