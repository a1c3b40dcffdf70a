"""A grid of ranks: rows share keys, columns share queries (arXiv 2512.20968).

A rank attends the queries of its column to the keys of its row, so with ``a`` rows and ``b`` columns
it sends ``a - 1`` blocks of queries, ``a - 1`` partial outputs and ``b - 1`` blocks of keys and values:
fewer bytes in all than any algorithm on one ring, which is what counts where each rank has one port
into a switch.
"""

from __future__ import annotations

from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule.algorithm import Look, algorithm
from tokenring_xdit.schedule.builders.direct import direct
from tokenring_xdit.schedule.builders.hierarchical import between_nodes
from tokenring_xdit.schedule.plan import Schedule

__all__ = ["mesh"]


def _worth(world_size: int, heads: int) -> tuple[str, ...]:
    """Not where the only grids are one row, which is a ring, and one column."""
    return ("",) if any(world_size % rows == 0 for rows in range(2, world_size)) else ()


@algorithm(many_ranks=True, worth=_worth, look=Look("sky", "star"))
def mesh(world_size: int, *, rows: int | None = None, chunks: int = 1) -> Schedule:
    """A grid: keys travel along rows, queries along columns, partial outputs home along columns.

    Columns are consecutive ranks. Keys go round their row, and while they travel the queries of the
    column, sent straight to all of it at the start, attend those that are here.

    Args:
        world_size: Number of ranks.
        rows: Rows of the grid; ``None`` chooses the grid that sends least.
        chunks: Pieces that a block of queries travels and is returned in.

    Raises:
        ScheduleError: The ranks do not fill that many rows.
    """
    grids = [a for a in range(1, world_size + 1) if world_size % a == 0]
    if rows is not None and rows not in grids:
        fitting = ", ".join(map(str, grids))
        raise ScheduleError(
            f"schedule 'mesh' with {rows} rows works for multiples of {rows} ranks, not for {world_size}; "
            f"rows that fit {world_size} ranks: {fitting}"
        )
    # Of two grids that send alike, the one with fewer returns to wait for.
    a = rows or min(grids, key=lambda a: (_traffic(a, world_size // a), a))
    return Schedule("mesh", world_size, between_nodes(direct(a, chunks=chunks), world_size // a))


def _traffic(rows: int, columns: int) -> int:
    """What a rank sends, in blocks of queries: queries and outputs along its column, keys and values along its row."""
    return 2 * (rows - 1) + 2 * (columns - 1)
