"""One algorithm inside a node, Ring of keys and values between nodes.

The multi-node case of TokenRing (arXiv 2412.20501): queries stay on the fast links inside a node, and
the slow ones between nodes carry one neighbour's keys while a whole node's queries are attended to
those that are here. The queries of a node are sent round once and kept for all rounds, and
a partial output returns once, when it has attended the keys of every node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenring_xdit.errors import ScheduleError, nearest
from tokenring_xdit.messages import named
from tokenring_xdit.schedule.algorithm import Look, algorithm, registered
from tokenring_xdit.schedule.plan import (
    WHOLE,
    Action,
    Attend,
    Block,
    Channel,
    Exchange,
    Kind,
    Merge,
    Piece,
    Program,
    Schedule,
    Transfer,
    cut,
    kv_block,
)

__all__ = ["between_nodes", "hierarchical"]


def _worth(world_size: int, heads: int) -> tuple[str, ...]:
    """Groups of consecutive ranks, which may share faster links, in other numbers than ``mesh`` chooses."""
    counts = [nodes for nodes in range(2, world_size // 2 + 1) if world_size % nodes == 0]
    return tuple(f"inside={inside},nodes={nodes}" for nodes in counts for inside in ("direct", "token_ring"))


@algorithm(cuts_heads=True, across_nodes=True, worth=_worth, look=Look("red", "pentagon"))
def hierarchical(
    world_size: int, heads: int = 0, *, nodes: int = 2, inside: str = "token_ring", chunks: int = 1
) -> Schedule:
    """TokenRing, or another algorithm, inside each node; Ring of keys and values between nodes.

    Args:
        world_size: Number of ranks; those of a node are consecutive.
        heads: What the numbers of query and key heads are multiples of; 0 where any cut will do.
        nodes: Number of nodes.
        inside: Name of the algorithm inside a node.
        chunks: Pieces that a block is cut in.

    Raises:
        ScheduleError: The ranks cannot be shared out among the nodes, or there is no such algorithm.
    """
    able = {name: algorithm for name, algorithm in registered().items() if algorithm.inside_nodes}
    if inside not in able:
        raise ScheduleError(f"schedule 'hierarchical' has no inside={named(inside)}. {nearest(named(inside), able)}")
    if world_size % nodes:
        fitting = ", ".join(str(n) for n in range(1, world_size + 1) if world_size % n == 0)
        raise ScheduleError(
            f"schedule 'hierarchical' over {nodes} nodes works for multiples of {nodes} ranks, not for {world_size}; "
            f"nodes that fit {world_size} ranks: {fitting}"
        )
    inner = able[inside].plan(world_size // nodes, heads=heads, chunks=chunks)
    return Schedule("hierarchical", world_size, between_nodes(inner, nodes, chunks=chunks))


def between_nodes(inner: Schedule, nodes: int, *, chunks: int = 1) -> tuple[Program, ...]:
    """Programs that run ``inner`` in each of ``nodes``, once for the keys of every node.

    Args:
        inner: The plan of one node.
        nodes: Number of nodes, each of ``inner.world_size`` consecutive ranks.
        chunks: Pieces that keys travel in between nodes; those that travel inside are cut alike.
    """
    pieces = cut(chunks)
    return tuple(
        _program(inner, nodes, node, local, pieces) for node in range(nodes) for local in range(inner.world_size)
    )


def _program(inner: Schedule, nodes: int, node: int, local: int, pieces: tuple[Piece, ...]) -> Program:
    size = inner.world_size
    actions: list[Action] = []
    for step in range(nodes):
        first, last = step == 0, step == nodes - 1
        hosting = (node - step) % nodes  # the node whose keys are attended in this round
        own_round = list(_round(inner.programs[local], size, node, hosting, first=first, last=last))
        if last and not first:
            own_round = _returns_first(own_round, node * size + local)
        coming, going = (hosting - 1) % nodes * size + local, hosting * size + local
        before, after = (node - 1) % nodes * size + local, (node + 1) % nodes * size + local
        passed_on = [
            Exchange(
                Channel.NODES,
                (Transfer(kv_block(coming, tokens=piece), before),),
                (Transfer(kv_block(going, tokens=piece), after),),
            )
            for piece in (() if last else pieces)
        ]
        if first:
            actions += [*passed_on, *own_round]
        elif any(isinstance(a, Exchange) and a.channel is Channel.KV for a in own_round):
            actions += [*passed_on, *_in_pieces(own_round, pieces)]
        else:
            actions += _as_keys_come(own_round, passed_on, pieces)
    return tuple(actions)


def _as_keys_come(own_round: list[Action], passed_on: list[Exchange], pieces: tuple[Piece, ...]) -> Iterator[Action]:
    """A round of keys that came from another node: all queries attend a piece of them before any attends the next."""
    attends = [action for action in own_round if isinstance(action, Attend)]
    for index, piece in enumerate(pieces):
        yield from passed_on[index : index + 1]
        yield from _in_pieces(attends if index < len(pieces) - 1 else own_round, (piece,))


def _in_pieces(actions: Sequence[Action], pieces: tuple[Piece, ...]) -> Iterator[Action]:
    """The same, where whole blocks of keys are attended in pieces."""
    for action in actions:
        if isinstance(action, Attend) and action.kv.tokens == WHOLE:
            yield from (replace(action, kv=replace(action.kv, tokens=piece)) for piece in pieces)
        else:
            yield action


def _round(program: Program, size: int, node: int, hosting: int, *, first: bool, last: bool) -> Iterator[Action]:
    """The part of a node's plan that a round repeats, with the ranks of that node and the keys of another."""

    def block(b: Block) -> Block:
        at = None if b.at is None else node * size + b.at
        return replace(b, owner=(hosting if b.kind is Kind.KV else node) * size + b.owner, at=at)

    def transfers(of: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
        return tuple(Transfer(block(t.block), node * size + t.peer) for t in of)

    for action in program:
        if isinstance(action, Attend):
            yield Attend(block(action.q), block(action.kv))
        elif isinstance(action, Merge):
            if last:
                yield Merge(block(action.partial))
        elif action.channel is Channel.KV or (first if action.channel is Channel.Q else last):
            yield Exchange(action.channel, transfers(action.recvs), transfers(action.sends))


def _returns_first(actions: list[Action], rank: int) -> list[Action]:
    """Attend what has to be returned before what stays: the own block fills the wait for the last return."""
    returns = [i for i, a in enumerate(actions) if isinstance(a, Exchange) and a.channel is Channel.O]
    end = returns[-1] + 1 if returns else 0
    own = [a for a in actions[:end] if isinstance(a, Attend) and a.q.owner == rank]
    return [*(a for a in actions[:end] if a not in own), *own, *actions[end:]]
