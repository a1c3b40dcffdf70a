"""Arguments of ``tokenring-xdit bench``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["add_parser", "spelled_out"]


_SUBCOMMANDS = ("run", "diff", "compare-runs", "report", "trace", "predict")


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
    run.add_argument("--resume", action="store_true", help="continue a sweep, without its recorded cases")
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
    run.set_defaults(action="bench_run:run_command", late="overrides")

    diff = subcommands.add_parser(
        "diff",
        help="compare two results.jsonl; exit code 1 if anything became slower",
        epilog="example: tokenring-xdit bench diff outputs/before/results.jsonl outputs/after/results.jsonl",
    )
    diff.add_argument("before", type=Path, help="results.jsonl of the first run")
    diff.add_argument("after", type=Path, help="results.jsonl of the second run")
    _add_tolerance(diff)
    diff.add_argument("--json", action="store_true", help="print JSON")
    diff.set_defaults(action="bench:diff_command")

    runs = subcommands.add_parser(
        "compare-runs",
        help="compare two checkups (tokenring-xdit doctor), of two machines or of one",
        epilog="example: tokenring-xdit bench compare-runs doctor-here doctor-there",
    )
    runs.add_argument("first", type=Path, help="folder of one checkup, or its doctor.json")
    runs.add_argument("second", type=Path, help="that of another one")
    runs.add_argument("--json", action="store_true", help="print JSON")
    runs.set_defaults(action="compare_runs:compare_runs_command")

    report = subcommands.add_parser(
        "report",
        help="write the report of a sweep, also of an unfinished one, and its plots",
        epilog="example: tokenring-xdit bench report outputs/bench/today --plots paper/figures",
    )
    report.add_argument("results", type=Path, metavar="FOLDER", help="folder of a sweep, or its results.jsonl")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the report (default: report.html beside the results)"
    )
    report.add_argument("--plots", type=Path, metavar="DIR", help="also write the plots as PNG and SVG files")
    report.set_defaults(action="bench:report_command")

    trace = subcommands.add_parser(
        "trace",
        help="write what every rank did in one call of each case, for Perfetto or Chrome",
        epilog="example: tokenring-xdit bench trace outputs/bench/smoke",
    )
    trace.add_argument("folder", type=Path, help="folder of a sweep")
    trace.add_argument("--output", type=Path, help="where to write (default: trace.json in the folder)")
    trace.set_defaults(action="bench:trace_command")

    predict = subcommands.add_parser(
        "predict",
        help="print predicted beside measured times of a sweep on emulated networks",
        epilog="example: tokenring-xdit bench predict outputs/bench/mesh-4",
    )
    predict.add_argument("results", type=Path, metavar="FOLDER", help="folder of a sweep, or its results.jsonl")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(action="bench:predict_command")


def _add_tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="share by which a median has to grow (default: %(default)s)"
    )
