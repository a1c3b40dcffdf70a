"""Pictures: what the engine is asked for a job, and what is learned from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.pipelines.engine import Engine, Step
from tokenring_xdit.serve.forecast import Forecast, hang_limit
from tokenring_xdit.serve.jobs import Job, Order, PictureOrder, progress_steps
from tokenring_xdit.serve.memory import MemoryForecast

__all__ = ["PictureRunner", "StageSeconds"]


class PictureRunner:
    """Makes pictures; see :class:`tokenring_xdit.serve.engine_owner.JobRunner`.

    Args:
        forecast: Learns from every job, by the pixels that are made together.
        on_step: Called with the seconds of each step.
        memory: Learns as well.
        on_made: Called with the measurements of each call of the engine that showed no previews.
        on_sent: Called with the bytes that ranks sent.
        on_exposed: Called with the share of the steps for which each rank waited.
    """

    def __init__(
        self,
        forecast: Forecast,
        on_step: Callable[[float], None],
        memory: MemoryForecast | None = None,
        on_made: Callable[[StageSeconds], object] = lambda stages: None,
        on_sent: Callable[[Sequence[int]], object] = lambda sent: None,
        on_exposed: Callable[[Sequence[float]], object] = lambda shares: None,
    ) -> None:
        self._forecast, self._on_step, self._on_made, self._on_sent = forecast, on_step, on_made, on_sent
        self._on_exposed = on_exposed
        self._memory = MemoryForecast() if memory is None else memory

    def make(self, engine: Engine, job: Job, most_silence: float) -> list[Any]:
        """Generate all pictures of a job."""
        order, made = _of(job.order), list[Any]()
        for count in order.batches:
            pixels = count * order.pixels
            engine.timeout = hang_limit(self._forecast.longest_silence(pixels, order.inputs), most_silence)
            clock = _StepTimes(job, job.step, self._on_step)
            job.refuse_cancelled()
            made += engine.generate(
                order.prompt if count == 1 else [order.prompt] * count,
                seed=order.seed + len(made),
                callback=clock,
                preview=progress_steps(order.steps, order.previews) if order.previews else False,
                progress=False,
                **order.arguments,
            )
            self._on_sent(engine.sent)
            self._on_exposed(engine.exposed)
            self._memory.learn(pixels, engine.memory, order.inputs)
            stages = clock.stages(time.monotonic())
            if stages is not None and clock.step_seconds is not None and not order.previews:
                self._on_made(stages)
                rest = stages.encode + stages.decode
                self._forecast.learn(pixels, clock.step_seconds, rest, order.inputs)
        return made

    def warm_up(self, engine: Engine, orders: Sequence[PictureOrder]) -> None:
        """Make what nobody asked for, each twice, to learn from it: the first one of a size allocates.

        The engine keeps the timeout that it came with, as it is for loading as well.
        """
        most_silence = engine.timeout
        try:
            for order in orders:
                for _ in range(2):
                    self.make(engine, Job(order, lambda event: None), most_silence)
        finally:
            engine.timeout = most_silence

    def peak_bytes(self, job: Job) -> int | None:
        """The most that a rank will hold, its model included."""
        order = _of(job.order)
        peaks = [self._memory.peak(count * order.pixels, order.inputs) for count in set(order.batches)]
        known = [peak for peak in peaks if peak is not None]
        return max(known) if known and len(known) == len(peaks) else None

    def seconds(self, job: Job) -> float | None:
        """Seconds that are left, by the forecast."""
        order = _of(job.order)
        parts = [self._forecast.seconds(count * order.pixels, order.steps, order.inputs) for count in order.batches]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        step = self._forecast.step_seconds(order.batches[0] * order.pixels, order.inputs) or 0.0
        return max(0.0, sum(known) - job.step * step)


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of a call of the engine.

    Attributes:
        encode: Before the first step: the prompt, and pictures that it starts from.
        denoise: All steps.
        decode: From the last step until it is here.
    """

    encode: float
    denoise: float
    decode: float


def _of(order: Order) -> PictureOrder:
    assert isinstance(order, PictureOrder)
    return order


class _StepTimes:
    """An engine's callback: times steps, tells of them, and gives up where that is wanted."""

    def __init__(self, job: Job, before: int, tell: Callable[[float], None]) -> None:
        self.began = time.monotonic()
        self._job, self._before, self._tell = job, before, tell
        self._times: list[float] = []

    @property
    def step_seconds(self) -> float | None:
        """Seconds of a step, on average; ``None`` before the second one."""
        times = self._times
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

    def stages(self, now: float) -> StageSeconds | None:
        """What the call took that is over now, its first step as long as the others; ``None`` with fewer than two."""
        times, step = self._times, self.step_seconds
        if step is None:
            return None
        return StageSeconds(max(0.0, times[0] - self.began - step), len(times) * step, now - times[-1])

    def __call__(self, step: Step) -> None:
        self._times.append(time.monotonic())
        if len(self._times) > 1:
            self._tell(self._times[-1] - self._times[-2])
        self._job.advance(self._before + step.step, step.preview)
        self._job.refuse_cancelled()
