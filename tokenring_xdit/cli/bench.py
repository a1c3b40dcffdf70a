"""``tokenring-xdit bench``: sweeps from a config, and what changed between two of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tokenring_xdit.bench import (
    RESULTS_FILE,
    TIMELINES_FILE,
    TRACE_FILE,
    Difference,
    Level,
    Outcome,
    Record,
    Status,
    SweepConfig,
    compare,
    inspect_models,
    planned_keys,
    predict,
    read_records,
    read_timelines,
    write_trace,
)
from tokenring_xdit.bench.diff import FIGURES
from tokenring_xdit.bench.pool import SWEEP, torchrun_pool
from tokenring_xdit.bench.report import REPORT_FILE, find_results, refuse_missing, write_plots, write_report
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.cli.sweeps import run_shown
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError, LaunchError, NetworkError, RegressionError
from tokenring_xdit.messages import escaped, one_line
from tokenring_xdit.schedule import AUTO
from tokenring_xdit.workers.torchrun import serve_torchrun

__all__ = ["diff_command", "predict_command", "report_command", "run_command", "trace_command"]


def run_command(args: argparse.Namespace) -> None:
    """Measure what a sweep says."""
    if os.environ.get("RANK", "0") != "0":
        serve_torchrun(SWEEP)
        return
    config = read_config(SweepConfig, args.config, args.overrides, inspect=inspect_models)
    if args.trace and config.level == Level.SERVICE.value:
        raise ConfigurationError("--trace records calls of ranks, and level service measures servers: leave it out")
    baseline = _read_baseline(args, config)
    results = Path(config.output) / RESULTS_FILE
    refuse_unwritable(results, f"output {config.output}")
    if args.plots is not None:
        refuse_missing(report=False)
        refuse_unwritable(args.plots / "time.svg", f"--plots {args.plots}")
    try:
        ranks = torchrun_pool() if "RANK" in os.environ else None
        outcome = run_shown("sweep", config, args, resume=args.resume, ranks=ranks)
    except (KeyboardInterrupt, LaunchError, NetworkError):  # what was measured until then
        _leave_report(results, args.plots)
        raise
    print(json.dumps([_plain(record) for record in outcome.records]) if args.json else _table(outcome))
    if args.trace and outcome.count(Status.OK):
        folder = outcome.results.parent
        write_trace(folder / TRACE_FILE, read_timelines(folder / TIMELINES_FILE))
    _leave_report(results, args.plots)
    differences: tuple[Difference, ...] = ()
    if baseline is not None:
        differences = _compared(baseline, outcome.records, args.tolerance)
        _tell(differences, sys.stderr if args.json else sys.stdout)
    failed = outcome.count(Status.FAILED)
    if failed:
        raise LaunchError(f"{failed} of {len(outcome.records)} cases failed; {outcome.results} says why")
    _raise_if_worse(differences)


def _read_baseline(args: argparse.Namespace, config: SweepConfig) -> tuple[Record, ...] | None:
    """The records to compare with, known to be of use before anything is measured."""
    _refuse_tolerance(args)
    if args.baseline is None:
        return None
    baseline = read_records(args.baseline)
    if not planned_keys(config) & {record.key for record in baseline}:
        raise ConfigurationError(
            f"--baseline {args.baseline} has no case of {args.config}: nothing could be compared. Name the "
            "results.jsonl of an earlier run of it"
        )
    return baseline


def _leave_report(results: Path, plots: Path | None) -> None:
    """Write the report beside results, if there are any; say what was missing for it, by which nothing else is lost."""
    if not results.exists() or not results.stat().st_size:
        return
    try:
        write_report(results, results.with_name(REPORT_FILE))
        print(f"report: {results.with_name(REPORT_FILE)}", file=sys.stderr)
    except ConfigurationError as error:
        print(f"the report was left out: {error}", file=sys.stderr)
    if plots is not None:
        print(f"plots: {len(write_plots(results, plots))} files in {plots}", file=sys.stderr)


def report_command(args: argparse.Namespace) -> None:
    """Write the report of a sweep."""
    refuse_missing()
    results = find_results(args.results)
    output = args.output or results.with_name(REPORT_FILE)
    refuse_unwritable(output, f"--output {output}")
    if args.plots is not None:
        refuse_unwritable(args.plots / "time.svg", f"--plots {args.plots}")
    write_report(results, output)
    print(f"report: {output}")
    if args.plots is not None:
        print(f"plots: {len(write_plots(results, args.plots))} files in {args.plots}")


def trace_command(args: argparse.Namespace) -> None:
    """Write the timelines of a sweep as one trace."""
    output = args.output or args.folder / TRACE_FILE
    timelines = read_timelines(args.folder / TIMELINES_FILE)
    refuse_unwritable(output, f"--output {output}")
    write_trace(output, timelines)
    print(f"{output}: {len(timelines)} cases; open it at ui.perfetto.dev or chrome://tracing")


def predict_command(args: argparse.Namespace) -> None:
    """Print what the simulation says beside what was measured."""
    results = find_results(args.results)
    predictions = predict(read_records(results))
    if not predictions:
        raise ConfigurationError(
            f"{results} has nothing to predict: no attention call of a fixed strategy ran on an emulated network"
        )
    if args.json:
        entries = [
            {
                "case": str(p.record),
                "measured": p.measured,
                "predicted": p.simulation.makespan,
                "ratio": p.ratio,
                "bound": p.simulation.floor,
            }
            for p in predictions
        ]
        print(json.dumps(entries))
        return
    wide = max(len(p.record.strategy) for p in predictions) + 1
    problem = ""
    for p in predictions:
        if p.record.problem != problem:
            problem = p.record.problem
            titles = f"{'measured ms':>12} {'predicted ms':>13} {'ratio':>6} {'of bound':>9}"
            print(f"{one_line(problem)}\n{'strategy':<{wide}} {titles}")
        times = f"{p.measured * 1e3:12.1f} {p.simulation.makespan * 1e3:13.1f} {p.ratio:6.2f} {p.of_bound:9.0%}"
        print(f"{one_line(p.record.strategy):<{wide}} {times}")


def _plain(record: Record) -> dict[str, object]:
    return record.model_dump(mode="json")


def _table(outcome: Outcome) -> str:
    """Milliseconds, errors and megabytes, a line a case."""
    lines: list[str] = []
    names = [_settled(record) for record in outcome.records]
    wide = max(map(len, names), default=0) + 1
    problem = ""
    for name, record in zip(names, outcome.records, strict=True):
        if record.problem != problem:
            problem = record.problem
            share = "exposed" if record.level == Level.ATTENTION.value else "attention"
            share = "p95" if record.level == Level.SERVICE.value else share
            figures = f"{'ms':>9} {'quartiles':>19} {share:>9} {'error':>8} {'MB sent':>8} {'peak MB':>8}"
            lines += [problem, f"{'strategy':<{wide}} {figures}"]
        if record.seconds is None or record.max_error is None:
            lines.append(f"{name:<{wide}} {record.status.value}: {record.error}")
            continue
        spread = f"{record.seconds.lower * 1e3:.1f} to {record.seconds.upper * 1e3:.1f}"
        part = record.exposed_seconds or record.attention_seconds or record.p95_seconds
        shown = f"{part.median * 1e3:.1f}" if part else "-"
        lines.append(
            f"{name:<{wide}} {record.seconds.median * 1e3:9.1f} {spread:>19} {shown:>9} "
            f"{record.max_error:8.1e} {_megabytes(record.bytes_sent):>8} {_megabytes(record.peak_bytes):>8}"
        )
    return escaped("\n".join([*lines, f"results: {outcome.results}, and as a table beside it"]), keep="\n")


def _megabytes(ranks: tuple[int, ...] | None) -> str:
    return f"{max(ranks) / 1e6:.2f}" if ranks else "-"


def _settled(record: Record) -> str:
    """A strategy, and what it has settled on where it chooses."""
    chosen = record.schedule if f"schedule:{AUTO}" in record.strategy else None
    return record.strategy if chosen is None else f"{record.strategy} ({chosen})"


def diff_command(args: argparse.Namespace) -> None:
    """Compare two sweeps."""
    _refuse_tolerance(args)
    before, after = read_records(args.before), read_records(args.after)
    if not {record.key for record in before} & {record.key for record in after}:
        raise ConfigurationError(f"{args.before} and {args.after} have no case in common: nothing can be compared")
    differences = _compared(before, after, args.tolerance)
    if args.json:
        print(json.dumps([_as_json(entry) for entry in differences]))
    else:
        _tell(differences, sys.stdout)
    _raise_if_worse(differences)


def _refuse_tolerance(args: argparse.Namespace) -> None:
    if args.tolerance < 0:
        raise ConfigurationError(f"--tolerance {args.tolerance} has to be 0 or more, such as 0.05")


def _compared(before: Sequence[Record], after: Sequence[Record], tolerance: float) -> tuple[Difference, ...]:
    """What became of the cases of two runs; what else differs between the runs is said on stderr."""
    differences = compare(before, after, tolerance=tolerance)
    changed = _changed_machines(before, after)
    if changed:
        print(f"note: the runs differ in more than the code: {', '.join(changed)}", file=sys.stderr)
    return differences


def _tell(differences: Sequence[Difference], file: TextIO) -> None:
    """Print what became of the cases, a line each; files of results may be anybody's."""
    print("\n".join(one_line(_in_words(entry)) for entry in differences), file=file)


def _raise_if_worse(differences: Sequence[Difference]) -> None:
    worse = sum(entry.verdict.worse for entry in differences)
    if worse:
        raise RegressionError(f"{worse} of {len(differences)} cases became slower than noise explains, or broke")


def _changed_machines(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """What is not the same about the machines of two runs, this package's version aside."""
    one, other = ([record.machine for record in records if record.machine][-1:] for records in (before, after))
    if not one or not other:
        return []
    names = [name for name in {**one[0], **other[0]} if name != "tokenring-xdit"]
    return [
        f"{name} {one[0].get(name)} and {other[0].get(name)}"
        for name in names
        if one[0].get(name) != other[0].get(name)
    ]


def _as_json(entry: Difference) -> dict[str, object]:
    verdict = {"verdict": entry.verdict.value, "figures": list(entry.figures), "ratio": entry.ratio}
    return {"case": str(entry.after or entry.before), **verdict}


def _in_words(entry: Difference) -> str:
    figures = []
    for record in (entry.before, entry.after):
        seconds = None if record is None else record.seconds
        figures.append(
            "-"
            if seconds is None
            else f"{seconds.median * 1e3:.1f} ({seconds.lower * 1e3:.1f} to {seconds.upper * 1e3:.1f})"
        )
    ratio = f", x{entry.ratio:.2f}" if entry.ratio is not None else ""
    ratio += f" ({', '.join(entry.figures)})" if set(entry.figures) - {FIGURES["seconds"]} else ""
    return f"{entry.verdict.value:<12} {entry.after or entry.before}: {figures[0]} -> {figures[1]} ms{ratio}"
