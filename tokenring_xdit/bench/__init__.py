"""Sweeps over attention calls and denoising steps, on this machine's own network or an emulated one; comparing them."""

from tokenring_xdit.bench.diff import Difference, Verdict, compare
from tokenring_xdit.bench.pictures import Pixels
from tokenring_xdit.bench.plan import CallShape, Case, Level, Strategy, StrategyKind
from tokenring_xdit.bench.prediction import Prediction, predict
from tokenring_xdit.bench.records import RESULTS_FILE, TABLE_FILE, Record, Status, read_records
from tokenring_xdit.bench.runner import Outcome, SweepStep, planned_keys, run_sweep
from tokenring_xdit.bench.sweep import SweepConfig, inspect_models
from tokenring_xdit.bench.timelines import TIMELINES_FILE, TRACE_FILE, CaseTimeline, read_timelines, write_trace

__all__ = [
    "RESULTS_FILE",
    "TABLE_FILE",
    "TIMELINES_FILE",
    "TRACE_FILE",
    "CallShape",
    "Case",
    "CaseTimeline",
    "Difference",
    "Level",
    "Outcome",
    "Pixels",
    "Prediction",
    "Record",
    "Status",
    "Strategy",
    "StrategyKind",
    "SweepConfig",
    "SweepStep",
    "Verdict",
    "compare",
    "inspect_models",
    "planned_keys",
    "predict",
    "read_records",
    "read_timelines",
    "run_sweep",
    "write_trace",
]
