"""Each rank attends all tokens in a share of the heads, as in Ulysses (arXiv 2309.14509), without its barriers.

Ulysses is four collectives with one attention between them, for heads that divide by the ranks. The same transfers
as a schedule overlap: own queries meet keys as these come, and other ranks' queries go home one after the other.
"""

from __future__ import annotations

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

_Share = tuple[Piece, ...]


def heads(world_size: int, *, heads: int = 0, chunks: int = 1) -> Schedule:
    """A share of the heads for each rank: queries, keys and outputs of it straight to and from every peer.

    Keys go first, queries behind them on the same channel, so that whatever comes can be attended when it comes.
    ``4 (N - 1) / N`` blocks in all, the least of all schedules. Where heads do not divide by the ranks some have one
    more to attend, and with fewer heads than ranks some have none.

    Args:
        world_size: Number of ranks.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        chunks: Pieces of tokens that queries travel and are returned in.
    """
    shares = _shares(world_size, heads)
    programs = tuple(_program(rank, world_size, shares, cut(chunks)) for rank in range(world_size))
    return Schedule("heads", world_size, programs)


def _shares(world_size: int, heads: int) -> tuple[_Share, ...]:
    """Which heads each rank attends, in pieces that cut query heads where they cut their key heads."""
    if heads % world_size == 0:  # any cut, too
        return tuple((piece,) for piece in cut(world_size))
    groups = cut(heads)
    return tuple(groups[slice(*Piece(rank, world_size).bounds(heads))] for rank in range(world_size))


def _program(rank: int, world_size: int, shares: tuple[_Share, ...], pieces: tuple[Piece, ...]) -> Program:
    # At each distance every rank serves another one.
    sources = [(rank - distance) % world_size for distance in range(1, world_size)]
    targets = [(rank + distance) % world_size for distance in range(1, world_size)]
    own = shares[rank]
    actions: list[Action] = []
    merges: list[Action] = []

    def exchange(channel: Channel, recvs: list[Transfer], sends: list[Transfer]) -> None:
        if recvs or sends:
            actions.append(Exchange(channel, tuple(recvs), tuple(sends)))

    def attend_all(visitor: int, tokens: Piece, share: Piece) -> None:
        query = q_block(visitor, tokens=tokens, heads=share)
        actions.extend(Attend(query, kv_block(peer, heads=share)) for peer in (rank, *sources))

    exchange(
        Channel.KV,
        [Transfer(kv_block(peer, heads=share), peer) for peer in sources for share in own],
        [Transfer(kv_block(rank, heads=share), peer) for peer in targets for share in shares[peer]],
    )
    for piece in pieces:
        exchange(
            Channel.KV,
            [Transfer(q_block(peer, tokens=piece, heads=share), peer) for peer in sources for share in own],
            [Transfer(q_block(rank, tokens=piece, heads=share), peer) for peer in targets for share in shares[peer]],
        )
    for share in own:
        attend_all(rank, Piece(), share)
    for piece in pieces:
        for visitor, host in zip(sources, targets, strict=True):
            for share in own:
                attend_all(visitor, piece, share)
            home = [o_block(rank, host, tokens=piece, heads=share) for share in shares[host]]
            away = [o_block(visitor, rank, tokens=piece, heads=share) for share in own]
            exchange(Channel.O, [Transfer(o, host) for o in home], [Transfer(o, visitor) for o in away])
            merges.extend(Merge(partial) for partial in home)
    return (*actions, *merges)
