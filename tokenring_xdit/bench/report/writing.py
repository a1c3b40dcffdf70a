"""From the files of a sweep to those of its report."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokenring_xdit.bench.records import RESULTS_FILE, Record, read_records
from tokenring_xdit.bench.report.traces import TracePlot, read_traces
from tokenring_xdit.bench.timelines import TIMELINES_FILE
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.outputs import write_whole

__all__ = ["REPORT_FILE", "find_results", "refuse_missing", "write_plots", "write_report"]

REPORT_FILE = "report.html"


def refuse_missing(*, report: bool = True) -> None:
    """Refuse what cannot be drawn because packages are not installed.

    Args:
        report: Whether the HTML file is wanted, or only PNG and SVG files, which need less.

    Raises:
        ConfigurationError: A package is missing; the message says how to get it.
    """
    what = "the report" if report else "PNG and SVG files of the plots"
    for module, package in (("altair", "altair"), ("vl_convert", "vl-convert-python"), ("jinja2", "jinja2")):
        if importlib.util.find_spec(module) is None and (report or module != "jinja2"):
            raise ConfigurationError(f'{what} cannot be made without {package}: pip install "tokenring-xdit[bench]"')


def find_results(place: Path) -> Path:
    """The results that a user named, by themselves or by their folder.

    Raises:
        ConfigurationError: There are none.
    """
    if place.is_dir():
        results = place / RESULTS_FILE
        if not results.is_file():
            raise ConfigurationError(f"folder {place} has no {RESULTS_FILE}: name the folder that a sweep wrote to")
        return results
    if not place.is_file():
        raise ConfigurationError(f"there is no {place}: name a {RESULTS_FILE}, or the folder that a sweep wrote to")
    return place


def write_report(results: Path, output: Path) -> None:
    """Write the report of results, with the timelines that lie beside them.

    Args:
        results: The ``results.jsonl`` of a sweep, over or not.
        output: The HTML file, which is replaced.

    Raises:
        ConfigurationError: A package is missing, or the results cannot be read or have no case.
    """
    refuse_missing()
    from tokenring_xdit.bench.report.page import page

    text = page(*_read(results))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, text)


def write_plots(results: Path, folder: Path) -> tuple[Path, ...]:
    """Write the plots of results as PNG and SVG files.

    Args:
        results: As for :func:`write_report`.
        folder: Made where it is missing.

    Returns:
        The files, none where no case ran.

    Raises:
        ConfigurationError: A package is missing, or the results cannot be read or have no case.
    """
    refuse_missing(report=False)
    from tokenring_xdit.bench.report.files import write_plots as draw

    return draw(folder, *_read(results))


def _read(results: Path) -> tuple[tuple[Record, ...], tuple[TracePlot, ...]]:
    records = read_records(results)
    if not records:
        raise ConfigurationError(f"{results} has no case yet: nothing can be reported")
    return records, read_traces(results.with_name(TIMELINES_FILE))
