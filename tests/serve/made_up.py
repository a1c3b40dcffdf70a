"""An engine that is made up, for what can be tested without ranks, and orders for it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from tokenring_xdit.liveness import ProcessIdentity
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.engine import Step
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of
from tokenring_xdit.pipelines.messages import MemoryUse
from tokenring_xdit.pipelines.request import Request, call_arguments, pipeline_class
from tokenring_xdit.serve.jobs import Event, Job, JobStatus, PictureOrder

__all__ = ["GIB", "PATIENCE", "JobObserver", "MadeUpEngine", "job", "until"]

PATIENCE = 300.0

GIB = 2**30

A_PIXEL = 2**16
"""Bytes that a made-up request needs for each."""


def job(heard: list[Event] | None = None, name: str | None = None, **order: Any) -> Job:
    """A job of one picture."""
    return Job(PictureOrder("image", 0, "a red circle", **order), (heard if heard is not None else []).append, name)


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class MadeUpRank:
    """The process of a made-up engine, as it is watched."""

    node = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.kill = process.kill
        self.identity = ProcessIdentity.of(process.pid)
        self.memory = self.identity.memory


class MadeUpEngine:
    """An engine of one sleeping process, which checks as the embedded model does; the seed colours pictures.

    Args:
        task: For which its pipeline is chosen.

    Attributes:
        asked: Arguments of its requests beside the usual ones.
        gate: Closed, steps wait for it.
        error: Raised by the next request.
        starts: How often the process was started.
    """

    def __init__(self, task: str | None = None) -> None:
        self.task = task
        self.asked: list[dict[str, Any]] = []
        self.timeout = 1800.0
        self.timeouts: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.starts = 0
        self.memory: tuple[MemoryUse, ...] = ()
        self.sent = (7, 9)
        self.exposed = (0.25, 0.5)
        self.rank: subprocess.Popen[bytes] | None = None

    @property
    def processes(self) -> list[int]:
        """As of an engine."""
        return [] if self.rank is None else [self.rank.pid]

    @property
    def workers(self) -> list[MadeUpRank]:
        """As of an engine."""
        return [] if self.rank is None else [MadeUpRank(self.rank)]

    def start(self) -> None:
        """Start the process, if there is none."""
        if self.rank is None or self.rank.poll() is not None:
            self.starts += 1
            self.rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def check(self, prompt: Any, **arguments: Any) -> Request:
        """Refuse what the embedded model does not take."""
        choice = PipelineChoice(self.task)
        options = {name: arguments.pop(name) for name in ("image", "mask_image", "strength") if name in arguments}
        request = find_model("embedded", choice).complete(Request(prompt, options=options, **arguments))
        call_arguments(pipeline_class(pipeline_class_of("embedded", choice)), request)
        return request

    def generate(
        self,
        prompt: Any,
        *,
        seed: int,
        callback: Callable[[Step], None],
        preview: Any = False,
        steps: int = 2,
        width: int = 8,
        height: int = 8,
        **more: Any,
    ) -> list[Any]:
        """Draw."""
        self.timeouts.append(self.timeout)
        self.asked.append(more)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        made = [Image.new("RGB", (width, height), (seed + i, 0, 0)) for i in range(len(prompts))]
        for step in range(1, steps + 1):
            assert self.gate.wait(PATIENCE)
            if self.error is not None:
                raise self.error
            callback(Step(step, steps, range(1), made[0] if preview and step in preview else None))
        pixels = width * height * len(prompts)
        self.memory = (MemoryUse(GIB, GIB + pixels * A_PIXEL, 16 * GIB), MemoryUse(GIB, GIB, 16 * GIB))
        return made

    def close(self) -> None:
        """End the process."""
        if self.rank is not None:
            self.rank.kill()
            self.rank.wait()


class JobObserver:
    """Takes note of what happens."""

    def __init__(self) -> None:
        self.outcomes: list[JobStatus] = []
        self.restarts: list[str] = []

    def ended(self, job: Job) -> None:
        """A job is over."""
        self.outcomes.append(job.status)

    def step(self, seconds: float) -> None:
        """A step was made."""
        assert seconds >= 0

    def restarted(self, reason: str) -> None:
        """Ranks were started again."""
        self.restarts.append(reason)
