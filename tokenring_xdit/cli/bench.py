"""``tokenring-xdit bench``: sweeps from a config, and what changed between two of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenring_xdit.cli.progress import progress
from tokenring_xdit.errors import ConfigurationError, LaunchError, NetworkError, RegressionError
from tokenring_xdit.messages import escaped, one_line
from tokenring_xdit.planning import AUTO
from tokenring_xdit.workers.environment import rank_environment

if TYPE_CHECKING:
    from tokenring_xdit.bench import Difference, Outcome, Record, SweepConfig

__all__ = ["add_parser", "spelled_out"]

_SUBCOMMANDS = ("run", "diff", "report", "trace", "predict")


def spelled_out(argv: Sequence[str]) -> list[str]:
    """The command line with ``bench SWEEP.yaml`` written as ``bench run SWEEP.yaml``."""
    named = len(argv) > 1 and argv[0] == "bench" and argv[1] not in _SUBCOMMANDS
    if named and any(argument.endswith((".yaml", ".yml")) for argument in argv[1:]):
        return [argv[0], "run", *argv[1:]]
    return list(argv)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "bench",
        help="measure attention strategies or denoising steps as a sweep says, or compare two sweeps",
        epilog="example: tokenring-xdit bench configs/sweeps/smoke.yaml rounds=9",
    )
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    run = subcommands.add_parser(
        "run",
        help="run a sweep; the word can be left out",
        epilog="example: tokenring-xdit bench run configs/sweeps/mesh-4.yaml output=outputs/bench/today",
    )
    run.add_argument("config", type=Path, help="the YAML file")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the file")
    run.add_argument("--resume", action="store_true", help="go on with a sweep, without the cases it has recorded")
    run.add_argument("--trace", action="store_true", help="write trace.json beside the results, for Perfetto or Chrome")
    run.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="results.jsonl of an earlier run; compare with it at the end, exit code 1 if anything became slower",
    )
    _add_tolerance(run)
    run.add_argument("--plots", type=Path, metavar="DIR", help="also write the report's plots as PNG and SVG files")
    run.add_argument("--json", action="store_true", help="print the records as JSON; a comparison goes to stderr then")
    run.set_defaults(run=_run)

    diff = subcommands.add_parser(
        "diff",
        help="what became slower from one results.jsonl to another; exit code 1 if anything did",
        epilog="example: tokenring-xdit bench diff outputs/before/results.jsonl outputs/after/results.jsonl",
    )
    diff.add_argument("before", type=Path, help="results.jsonl of the first run")
    diff.add_argument("after", type=Path, help="results.jsonl of the second run")
    _add_tolerance(diff)
    diff.add_argument("--json", action="store_true", help="print JSON")
    diff.set_defaults(run=_diff)

    report = subcommands.add_parser(
        "report",
        help="the report of a sweep, over or not: one HTML file, and its plots as PNG and SVG files",
        epilog="example: tokenring-xdit bench report outputs/bench/today --plots paper/figures",
    )
    report.add_argument("results", type=Path, metavar="FOLDER", help="folder of a sweep, or its results.jsonl")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the report (default: report.html beside the results)"
    )
    report.add_argument("--plots", type=Path, metavar="DIR", help="also write the plots as PNG and SVG files")
    report.set_defaults(run=_report)

    trace = subcommands.add_parser(
        "trace",
        help="write what every rank did in one call of each case, for Perfetto or Chrome",
        epilog="example: tokenring-xdit bench trace outputs/bench/smoke",
    )
    trace.add_argument("folder", type=Path, help="folder of a sweep")
    trace.add_argument("--output", type=Path, help="where to write (default: trace.json in the folder)")
    trace.set_defaults(run=_trace)

    predict = subcommands.add_parser(
        "predict",
        help="what the simulation says of a sweep's calls on emulated networks, beside what was measured",
        epilog="example: tokenring-xdit bench predict outputs/bench/mesh-4",
    )
    predict.add_argument("results", type=Path, metavar="FOLDER", help="folder of a sweep, or its results.jsonl")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)


def _add_tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="share by which a median has to grow (default: %(default)s)"
    )


def _run(args: argparse.Namespace) -> None:
    if "RANK" in os.environ:
        for name, value in rank_environment(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))).items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, has much to say
        if os.environ["RANK"] != "0":
            from tokenring_xdit.bench import obey

            obey()
            return
    from tokenring_xdit.bench import (
        RESULTS_FILE,
        TIMELINES_FILE,
        TRACE_FILE,
        Status,
        SweepConfig,
        World,
        inspect_models,
        read_timelines,
        run_sweep,
        write_trace,
    )
    from tokenring_xdit.bench.report import refuse_missing
    from tokenring_xdit.cli.paths import refuse_unwritable
    from tokenring_xdit.config import read_config

    config = read_config(SweepConfig, args.config, args.overrides, inspect=inspect_models)
    baseline = _read_baseline(args, config)
    results = Path(config.output) / RESULTS_FILE
    refuse_unwritable(results, f"output {config.output}")
    if args.plots is not None:
        refuse_missing(report=False)
        refuse_unwritable(args.plots / "time.svg", f"--plots {args.plots}")
    try:
        with progress("sweep") as show:
            outcome = run_sweep(
                config,
                resume=args.resume,
                command=args.command,
                on_step=lambda step: show(step.done, step.total, step.what),
                world=World() if "RANK" in os.environ else None,
            )
    except (KeyboardInterrupt, LaunchError, NetworkError):  # what was measured until then
        _leave_report(results, args.plots)
        raise
    print(json.dumps([_plain(record) for record in outcome.records]) if args.json else _table(outcome))
    if args.trace and outcome.count(Status.OK):
        folder = outcome.results.parent
        write_trace(folder / TRACE_FILE, read_timelines(folder / TIMELINES_FILE))
    _leave_report(results, args.plots)
    differences = () if baseline is None else _compared(baseline, outcome.records, args)
    failed = outcome.count(Status.FAILED)
    if failed:
        raise LaunchError(f"{failed} of {len(outcome.records)} cases failed; {outcome.results} says why")
    _raise_if_worse(differences)


def _read_baseline(args: argparse.Namespace, config: SweepConfig) -> tuple[Record, ...] | None:
    """The records to compare with, known to be of use before anything is measured."""
    from tokenring_xdit.bench import planned_keys, read_records

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
    from tokenring_xdit.bench.report import REPORT_FILE, write_plots, write_report

    if not results.exists() or not results.stat().st_size:
        return
    try:
        write_report(results, results.with_name(REPORT_FILE))
        print(f"report: {results.with_name(REPORT_FILE)}", file=sys.stderr)
    except ConfigurationError as error:
        print(f"the report was left out: {error}", file=sys.stderr)
    if plots is not None:
        print(f"plots: {len(write_plots(results, plots))} files in {plots}", file=sys.stderr)


def _report(args: argparse.Namespace) -> None:
    from tokenring_xdit.bench.report import REPORT_FILE, find_results, refuse_missing, write_plots, write_report
    from tokenring_xdit.cli.paths import refuse_unwritable

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


def _trace(args: argparse.Namespace) -> None:
    from tokenring_xdit.bench import TIMELINES_FILE, TRACE_FILE, read_timelines, write_trace
    from tokenring_xdit.cli.paths import refuse_unwritable

    output = args.output or args.folder / TRACE_FILE
    timelines = read_timelines(args.folder / TIMELINES_FILE)
    refuse_unwritable(output, f"--output {output}")
    write_trace(output, timelines)
    print(f"{output}: {len(timelines)} cases; open it at ui.perfetto.dev or chrome://tracing")


def _predict(args: argparse.Namespace) -> None:
    from tokenring_xdit.bench import predict, read_records
    from tokenring_xdit.bench.report import find_results

    results = find_results(args.results)
    predictions = predict(read_records(results))
    if not predictions:
        raise ConfigurationError(
            f"{results} has nothing to predict: no attention call of a fixed strategy ran on an emulated network"
        )
    if args.json:
        entries = [
            {"case": str(p.record), "measured": p.measured, "predicted": p.simulation.makespan, "ratio": p.ratio}
            for p in predictions
        ]
        print(json.dumps(entries))
        return
    wide = max(len(p.record.strategy) for p in predictions) + 1
    problem = ""
    for p in predictions:
        if p.record.problem != problem:
            problem = p.record.problem
            print(f"{one_line(problem)}\n{'strategy':<{wide}} {'measured ms':>12} {'predicted ms':>13} {'ratio':>6}")
        times = f"{p.measured * 1e3:12.1f} {p.simulation.makespan * 1e3:13.1f} {p.ratio:6.2f}"
        print(f"{one_line(p.record.strategy):<{wide}} {times}")


def _plain(record: Record) -> dict[str, object]:
    return record.model_dump(mode="json")


def _table(outcome: Outcome) -> str:
    """Milliseconds, errors and megabytes, a line a case."""
    from tokenring_xdit.bench import Level

    lines: list[str] = []
    names = [_settled(record) for record in outcome.records]
    wide = max(map(len, names), default=0) + 1
    problem = ""
    for name, record in zip(names, outcome.records, strict=True):
        if record.problem != problem:
            problem = record.problem
            share = "exposed" if record.level == Level.ATTENTION.value else "attention"
            figures = f"{'ms':>9} {'quartiles':>19} {share:>9} {'error':>8} {'MB sent':>8} {'peak MB':>8}"
            lines += [problem, f"{'strategy':<{wide}} {figures}"]
        if record.seconds is None or record.bytes_sent is None or record.peak_bytes is None:
            lines.append(f"{name:<{wide}} {record.status.value}: {record.error}")
            continue
        spread = f"{record.seconds.lower * 1e3:.1f} to {record.seconds.upper * 1e3:.1f}"
        part = record.exposed_seconds or record.attention_seconds
        shown = f"{part.median * 1e3:.1f}" if part else "-"
        lines.append(
            f"{name:<{wide}} {record.seconds.median * 1e3:9.1f} {spread:>19} {shown:>9} "
            f"{record.max_error:8.1e} {max(record.bytes_sent) / 1e6:8.2f} {max(record.peak_bytes) / 1e6:8.2f}"
        )
    return escaped("\n".join([*lines, f"results: {outcome.results}, and as a table beside it"]), keep="\n")


def _settled(record: Record) -> str:
    """A strategy, and what it has settled on where it chooses."""
    chosen = record.schedule if f"schedule:{AUTO}" in record.strategy else None
    return record.strategy if chosen is None else f"{record.strategy} ({chosen})"


def _diff(args: argparse.Namespace) -> None:
    from tokenring_xdit.bench import read_records

    _refuse_tolerance(args)
    before, after = read_records(args.before), read_records(args.after)
    if not {record.key for record in before} & {record.key for record in after}:
        raise ConfigurationError(f"{args.before} and {args.after} have no case in common: nothing can be compared")
    _raise_if_worse(_compared(before, after, args))


def _refuse_tolerance(args: argparse.Namespace) -> None:
    if args.tolerance < 0:
        raise ConfigurationError(f"--tolerance {args.tolerance} has to be 0 or more, such as 0.05")


def _compared(before: Sequence[Record], after: Sequence[Record], args: argparse.Namespace) -> tuple[Difference, ...]:
    """Print what became of the cases of two runs; ``diff --json`` prints JSON, ``run --json`` has printed its own."""
    from tokenring_xdit.bench import compare

    differences = compare(before, after, tolerance=args.tolerance)
    changed = _changed_machines(before, after)
    if changed:
        print(f"note: the runs differ in more than the code: {', '.join(changed)}", file=sys.stderr)
    if args.json and args.run is _diff:
        print(json.dumps([_as_json(entry) for entry in differences]))
    else:
        lines = [one_line(_in_words(entry)) for entry in differences]  # files of results may be anybody's
        print("\n".join(lines), file=sys.stderr if args.json else sys.stdout)
    return differences


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
    return {"case": str(entry.after or entry.before), "verdict": entry.verdict.value, "ratio": entry.ratio}


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
    return f"{entry.verdict.value:<12} {entry.after or entry.before}: {figures[0]} -> {figures[1]} ms{ratio}"
