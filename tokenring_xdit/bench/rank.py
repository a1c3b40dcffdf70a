"""What each rank of a sweep serves; see :mod:`tokenring_xdit.workers.loop`."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.bench.commands import Checked, CheckStrategy, Prepare, Prepared, Timed, TimeStrategy, TraceStrategy
from tokenring_xdit.bench.instruments import join_sweep
from tokenring_xdit.bench.measure import Bench
from tokenring_xdit.bench.pipeline import PipelineBench
from tokenring_xdit.bench.plan import CallShape, Strategy, StrategyKind
from tokenring_xdit.bench.text import TextShape
from tokenring_xdit.bench.text_rank import TextBench
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.bench.workload import WorkloadShape
from tokenring_xdit.schedule import Activity, Auto, ScheduleSpec, Span, Timeline
from tokenring_xdit.workers.loop import Commands, Mailbox

__all__ = ["MESSAGES", "commands", "commands_on"]

MESSAGES = (
    *(CheckStrategy, Checked, Prepare, Prepared, TimeStrategy, Timed, TraceStrategy, Traced),
    *(Auto, CallShape, ScheduleSpec, Strategy, StrategyKind, TextShape, WorkloadShape),
    *(Activity, Span, Timeline),
)
"""Commands and answers, and what is in them."""


def commands(mailbox: Mailbox) -> Commands:
    """Join the other ranks."""
    return commands_on(join_sweep(mailbox.store))


def commands_on(device: torch.device) -> Commands:
    """What a rank of a sweep can be asked for, once it has joined the others."""
    problem = _Problem(device)
    return {
        Prepare: problem.prepare,
        CheckStrategy: lambda command: problem.bench.check(command.strategy),
        TimeStrategy: lambda command: problem.bench.time(command.strategy),
        TraceStrategy: lambda command: problem.bench.trace(command.strategy),
    }


class _Problem:
    bench: Any = None

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def prepare(self, command: Prepare) -> Prepared:
        self.bench = None  # lets the tensors before go
        kinds = ((WorkloadShape, PipelineBench), (TextShape, TextBench), (CallShape, Bench))
        kind: Any = next(kind for shape, kind in kinds if isinstance(command.shape, shape))
        self.bench = kind(command, self._device)
        return Prepared(self.bench.kernel, str(self._device), self.bench.threads)
