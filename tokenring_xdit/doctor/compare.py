"""Two checkups side by side: what was measured on each machine, and how it stands to the fastest of the same machine.

No figure of one machine is divided by one of the other: they differ in more than what anybody chose. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenring_xdit.bench.records import Status
from tokenring_xdit.doctor.record import JSON_FILE, Checkup
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import named, one_line

__all__ = ["CheckupFigure", "Row", "compare", "in_words", "machine_in_words", "read_checkup", "to_plain"]


@dataclass(frozen=True)
class CheckupFigure:
    """What one checkup found of something.

    Attributes:
        seconds: The median; ``None`` where there is none.
        times: Of the fastest that the same checkup found for the same problem.
        said: Why there is no time, or what was found instead.
    """

    seconds: float | None
    times: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Row:
    """Something that at least one of two checkups looked at.

    Attributes:
        part: Part of the checkup.
        problem: What was computed.
        name: By which strategy, kernel or schedule.
        figures: Figures of both checkups; ``None`` of one that did not look at it.
    """

    part: str
    problem: str
    name: str
    figures: tuple[CheckupFigure | None, CheckupFigure | None]


_Key = tuple[str, str, str]


def read_checkup(path: Path) -> Checkup:
    """Read a ``doctor.json``, or that of a folder.

    Raises:
        ConfigurationError: It cannot be read, or is something else.
    """
    path = path / JSON_FILE if path.is_dir() else path
    try:
        return Checkup.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = named(".".join(map(str, first["loc"])) or "the file")
        newer = first["type"] == "extra_forbidden" or first["loc"] == ("version",)
        asked = (
            "was it written by another version of tokenring-xdit?" if newer else "is it the doctor.json of a checkup?"
        )
        raise ConfigurationError(f"{path}: {where}: {first['msg']}; {asked}") from error


def compare(first: Checkup, second: Checkup) -> list[Row]:
    """What both found, in the order of a checkup's parts; what only the second looked at comes behind the others."""
    found = [dict(_found(checkup)) for checkup in (first, second)]
    order = {part: place for place, part in enumerate(("exactness", "messages", "kernels", "launches", "strategies"))}
    keys = sorted({**found[0], **found[1]}, key=lambda key: order[key[0]])
    problems: dict[tuple[str, str], list[_Key]] = {}
    for key in keys:
        problems.setdefault(key[:2], []).append(key)
    rows = []
    for together in problems.values():
        best = [min((f.seconds for k in together if (f := own.get(k)) and f.seconds), default=None) for own in found]
        for key in together:
            one, other = (_beside(own.get(key), least) for own, least in zip(found, best, strict=True))
            rows.append(Row(*key, (one, other)))
    return rows


def _beside(figure: CheckupFigure | None, least: float | None) -> CheckupFigure | None:
    if figure is None or figure.seconds is None or least is None:
        return figure
    return CheckupFigure(figure.seconds, figure.seconds / least, figure.said)


def _found(checkup: Checkup) -> Iterator[tuple[_Key, CheckupFigure]]:
    for (schedule, mask, dtype), own in checkup.exactness_by_schedule.items():
        errors = [result.error for result in own if result.error is not None]
        wrong = sum(not result.exact for result in own)
        largest = f"{max(errors):.0e}" if errors else "-"
        said = f"{wrong} of {len(own)} wrong" if wrong else f"exact, {largest}"
        yield ("exactness", f"{mask}, {dtype}", schedule), CheckupFigure(None, said=said)
    for message in checkup.messages:
        yield (
            ("messages", "rank 0 to rank 1", f"{message.size} bytes"),
            CheckupFigure(None, said=f"{message.rate / 1e9:.3g} GB/s"),
        )
    for kernel in checkup.kernels:
        key = "kernels", f"{kernel.problem}, {kernel.dtype}", kernel.kernel
        off = "" if kernel.error is None else f", {kernel.error:.0e}"
        # What is wrong is not the fastest of anything.
        yield (
            key,
            CheckupFigure(kernel.seconds, said=kernel.said)
            if kernel.exact
            else CheckupFigure(None, said=f"wrong{off}"),
        )
    for launch in checkup.launches:
        key = "launches", f"calls of few tokens, {launch.ranks} ranks", launch.schedule
        yield key, CheckupFigure(launch.seconds, said=launch.said)
    for record in checkup.strategies:
        seconds = None if record.seconds is None else record.seconds.median
        said = (
            "" if record.status is Status.OK else f"{record.status.value}: {(record.error or '').partition(chr(10))[0]}"
        )
        yield ("strategies", checkup.title(record), record.strategy), CheckupFigure(seconds, said=said)


def machine_in_words(checkup: Checkup) -> str:
    """Which machine it was, when, and with what."""
    machine = checkup.machine
    if machine is None:
        return f"an unknown machine, {checkup.started}, {checkup.ranks} ranks over {checkup.backend}"
    kinds = [gpu.name for gpu in machine.gpus]
    gpus = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "no GPU"
    versions = [f"torch {machine.versions.get('torch')}", f"NCCL {machine.nccl}" if machine.nccl else ""]
    parts = [machine.host, gpus, f"{machine.cores} cores", *versions, f"{checkup.ranks} ranks over {checkup.backend}"]
    return ", ".join([part for part in parts if part] + [f"tokenring-xdit {checkup.package}", checkup.started])


def in_words(first: Checkup, second: Checkup) -> str:
    """The comparison as a table of text."""
    rows = compare(first, second)
    lines = [f"A: {machine_in_words(first)}", f"B: {machine_in_words(second)}"]
    lines.append("x: times the fastest of the same file; figures of A and B are of two machines and are not divided")
    wide = max((len(row.name) for row in rows), default=0) + 2
    for (part, problem), together in groupby(rows, key=lambda row: (row.part, row.problem)):
        lines.append(f"\n{one_line(f'{part}: {problem}')}\n{'':<{wide}}{'A':>22}{'B':>22}")
        lines += [f"{one_line(row.name):<{wide}}" + "".join(f"{_cell(f):>22}" for f in row.figures) for row in together]
    return "\n".join(lines)


def _cell(figure: CheckupFigure | None) -> str:
    if figure is None:
        return "-"
    if figure.seconds is None:
        return one_line(figure.said or "-", 21)
    return f"{figure.seconds * 1e3:.3f} ms" + (f" x{figure.times:.2f}" if figure.times is not None else "")


def to_plain(first: Checkup, second: Checkup) -> dict[str, Any]:
    """The comparison as plain data."""

    def plain(figure: CheckupFigure | None) -> dict[str, Any] | None:
        if figure is None:
            return None
        return {"seconds": figure.seconds, "times_the_fastest": figure.times, "said": figure.said}

    return {
        "machines": [machine_in_words(first), machine_in_words(second)],
        "rows": [
            {"part": r.part, "problem": r.problem, "name": r.name, "figures": [plain(f) for f in r.figures]}
            for r in compare(first, second)
        ],
    }
