"""Attention sweeps from a config, on this machine's own network or an emulated one, and their comparison."""

from tokenring_xdit.bench.diff import Difference, Verdict, compare
from tokenring_xdit.bench.plan import Case, Shape, Strategy, StrategyKind
from tokenring_xdit.bench.records import Record, Status, read_records
from tokenring_xdit.bench.runner import RESULTS_FILE, TABLE_FILE, Outcome, Step, run_sweep
from tokenring_xdit.bench.sweep import SweepConfig
from tokenring_xdit.bench.timelines import TIMELINES_FILE, TRACE_FILE, CaseTimeline, read_timelines, write_trace

__all__ = [
    "RESULTS_FILE",
    "TABLE_FILE",
    "TIMELINES_FILE",
    "TRACE_FILE",
    "Case",
    "CaseTimeline",
    "Difference",
    "Outcome",
    "Record",
    "Shape",
    "Status",
    "Step",
    "Strategy",
    "StrategyKind",
    "SweepConfig",
    "Verdict",
    "compare",
    "read_records",
    "read_timelines",
    "run_sweep",
    "write_trace",
]
