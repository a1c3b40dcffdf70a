"""The table of all cases: what it says, and what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenring_xdit.bench.records import Record
from tokenring_xdit.bench.report import measures
from tokenring_xdit.bench.report.measures import BASELINE, Value, number
from tokenring_xdit.bench.report.problems import level_of, machines, problem_of
from tokenring_xdit.schedule import AUTO

__all__ = ["Cell", "Table", "table"]


@dataclass(frozen=True)
class Cell:
    """An entry.

    Attributes:
        text: What is shown; empty where there is nothing.
        order: What to sort by: a number in columns of numbers, otherwise the text; ``None`` comes last.
    """

    text: str
    order: float | str | None


@dataclass(frozen=True)
class Table:
    """All cases, a row each.

    Attributes:
        columns: Titles, and whether the column has numbers.
        rows: The cells of each case.
        statuses: Statuses of each row.
        common: What is the same in all cases, and therefore no column: titles and texts.
    """

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    statuses: tuple[str, ...]
    common: tuple[tuple[str, str], ...]


_Entry = Callable[[Record], Cell]


def table(records: Sequence[Record]) -> Table:
    """The table of a file's cases; columns with the same entry everywhere, or none, are left out.

    Args:
        records: At least one, each case once; their order is kept.
    """
    known = machines(records)
    baselines = {problem_of(record, known): record for record in records if record.strategy == BASELINE}

    def speed_up(record: Record) -> Value | None:
        return measures.speed_up(record, baselines.get(problem_of(record, known)))

    always: dict[str, _Entry] = {"strategy": _said(lambda r: r.strategy)}
    case: dict[str, _Entry] = {
        "level": _said(lambda r: level_of(r)[0]),
        "model": _said(lambda r: level_of(r)[1]),
        "network": _said(lambda r: r.network),
        "machine": _said(lambda r: str(problem_of(r, known)[0].machine or "")),
        "ranks": _counted(lambda r: r.ranks),
        "tokens": _counted(lambda r: r.tokens),
        "queries": _counted(lambda r: r.num_queries),
        "heads": _counted(lambda r: r.heads),
        "head width": _counted(lambda r: r.head_dim),
        "batch": _counted(lambda r: r.batch),
        "type": _said(lambda r: r.dtype),
        "rounds": _counted(lambda r: r.rounds),
    }
    found: dict[str, _Entry] = {
        "status": _said(lambda r: r.status.value),
        "chosen": _said(_chosen),
        "ms": _measured(measures.call_time, 1e-3),
        "quartiles, ms": _quartiles,
        f"times {BASELINE}": _measured(speed_up, 1.0, "{:.2f}"),
        "exposed, ms": _measured(measures.exposed, 1e-3),
        "hidden, ms": _measured(measures.hidden, 1e-3),
        "sent, MB": _measured(measures.payload, 1e6),
        "busiest link, MB": _measured(measures.link_bytes, 1e6),
        "memory, MB": _measured(measures.peak, 1e6),
        "error": _measured(_error, 1.0, "{:.1e}"),
        "why not": _said(lambda r: r.error or ""),
    }
    columns = {**always, **case, **found}
    cells = {title: [entry(record) for record in records] for title, entry in columns.items()}
    numeric = {title for title, entries in cells.items() if not any(isinstance(cell.order, str) for cell in entries)}
    different = [
        title
        for title, entries in cells.items()
        if title in {"strategy", "status"}
        or (title in case and len({cell.text for cell in entries}) > 1)
        or (title in found and any(cell.text for cell in entries))
    ]
    return Table(
        tuple((title, title in numeric) for title in different),
        tuple(zip(*(cells[title] for title in different), strict=True)),
        tuple(record.status.value for record in records),
        tuple((title, cells[title][0].text) for title in case if title not in different and cells[title][0].text),
    )


def _chosen(record: Record) -> str:
    """The schedule that ran, where the strategy's name leaves it open."""
    return record.schedule or "" if f"schedule:{AUTO}" in record.strategy else ""


def _said(of: Callable[[Record], str]) -> _Entry:
    return lambda record: Cell(of(record), of(record).lower() or None)


def _counted(of: Callable[[Record], int]) -> _Entry:
    return lambda record: Cell(str(of(record)), of(record))


def _measured(of: Callable[[Record], Value | None], size: float, form: str = "") -> _Entry:
    def cell(record: Record) -> Cell:
        value = of(record)
        if value is None:
            return Cell("", None)
        middle = value.middle / size
        return Cell(form.format(middle) if form else number(middle), middle)

    return cell


def _quartiles(record: Record) -> Cell:
    value = measures.call_time(record)
    if value is None or value.lower is None or value.upper is None:
        return Cell("", None)
    return Cell(f"{number(value.lower * 1e3)} to {number(value.upper * 1e3)}", value.lower)


def _error(record: Record) -> Value | None:
    return None if record.max_error is None or not math.isfinite(record.max_error) else Value(record.max_error)
