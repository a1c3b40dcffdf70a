"""Each rank attends all tokens in a share of the heads, as in Ulysses (arXiv 2309.14509), without its barriers.

Ulysses is four collectives with one attention between them. The same transfers as a schedule overlap: own queries
meet keys as these come, other ranks' queries go home one after the other, and heads need not divide by the ranks.
"""

from __future__ import annotations

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.plan import (
    Action,
    Attend,
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


def heads(world_size: int, *, heads: int = 0, chunks: int = 1) -> Schedule:
    """A share of the heads for each rank: queries, keys and outputs of it straight to and from every peer.

    Keys go first, queries behind them on the same channel, so that whatever comes can be attended when it comes.
    ``4 (N - 1) / N`` blocks in all, the least of all schedules, where there are as many heads as ranks.

    Args:
        world_size: Number of ranks.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that queries travel and are returned in.

    Raises:
        ScheduleError: There are fewer heads than ranks.
    """
    if 0 < heads < world_size:
        raise ScheduleError(
            f"schedule 'heads' gives each rank a share of the heads, and there are {heads} for {world_size} ranks: it "
            f"works for up to {heads} ranks here. Use another schedule, such as mesh or direct, or Ulysses with fewer "
            "ranks around one"
        )
    shares = cut(world_size)
    programs = tuple(_program(rank, world_size, shares, cut(chunks)) for rank in range(world_size))
    return Schedule("heads", world_size, programs)


def _program(rank: int, world_size: int, shares: tuple[Piece, ...], pieces: tuple[Piece, ...]) -> Program:
    # At each distance every rank serves another one.
    sources = [(rank - distance) % world_size for distance in range(1, world_size)]
    targets = [(rank + distance) % world_size for distance in range(1, world_size)]
    own = shares[rank]
    actions: list[Action] = []
    merges: list[Action] = []
    if sources:
        coming = tuple(Transfer(kv_block(peer, heads=own), peer) for peer in sources)
        going = tuple(Transfer(kv_block(rank, heads=shares[peer]), peer) for peer in targets)
        actions.append(Exchange(Channel.KV, coming, going))
    for piece in pieces if sources else ():
        coming = tuple(Transfer(q_block(peer, tokens=piece, heads=own), peer) for peer in sources)
        going = tuple(Transfer(q_block(rank, tokens=piece, heads=shares[peer]), peer) for peer in targets)
        actions.append(Exchange(Channel.KV, coming, going))
    actions.extend(Attend(q_block(rank, heads=own), kv_block(peer, heads=own)) for peer in (rank, *sources))
    for piece in pieces:
        for visitor, host in zip(sources, targets, strict=True):
            query = q_block(visitor, tokens=piece, heads=own)
            actions.extend(Attend(query, kv_block(peer, heads=own)) for peer in (rank, *sources))
            home = o_block(rank, host, tokens=piece, heads=shares[host])
            away = o_block(visitor, rank, tokens=piece, heads=own)
            actions.append(Exchange(Channel.O, (Transfer(home, host),), (Transfer(away, visitor),)))
            merges.append(Merge(home))
    return (*actions, *merges)
