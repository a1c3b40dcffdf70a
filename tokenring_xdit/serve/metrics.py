"""Figures for Prometheus. What cannot be known here is absent, not zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tokenring_xdit import __version__
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.serve.chat_runner import AnswerTimes
from tokenring_xdit.serve.engine_owner import RESTART_REASONS, EngineOwner
from tokenring_xdit.serve.gpus import GpuMeters, management_library
from tokenring_xdit.serve.jobs import Job, JobStatus
from tokenring_xdit.serve.picture_runner import StageSeconds
from tokenring_xdit.serve.queue import JobQueue

__all__ = ["Meters"]

_OUTCOMES = ("done", "failed", "cancelled", "refused")

_REQUEST_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600, 1200)
_STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_RATIO_BUCKETS = (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4)


class Meters:
    """All figures of one server. What it counts is there from the beginning, as zero.

    Args:
        dims: How its ranks are divided.
        queue: Where requests wait.
        kind: What is made of most requests: ``image``, ``video`` or ``text``.
    """

    def __init__(self, dims: ParallelDims, queue: JobQueue, kind: str = "image") -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tokenring_requests", "Finished and refused requests", ["kind", "outcome"], registry=self.registry
        )
        self._queued = Histogram(
            "tokenring_queue_seconds", "Seconds in the queue", buckets=_REQUEST_BUCKETS, registry=self.registry
        )
        self._duration = Histogram(
            "tokenring_request_duration_seconds",
            "Seconds of serving a request, without the queue",
            ["kind"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._ratio = Histogram(
            "tokenring_forecast_duration_ratio",
            "Real over predicted seconds of requests",
            buckets=_RATIO_BUCKETS,
            registry=self.registry,
        )
        self._memory_ratio = Histogram(
            "tokenring_forecast_memory_ratio",
            "Real over predicted peaks of a rank's memory, its model included",
            buckets=_RATIO_BUCKETS,
            registry=self.registry,
        )
        self._restarts = Counter(
            "tokenring_world_restarts", "Restarts of the ranks", ["reason"], registry=self.registry
        )
        self._sent = Counter(
            "tokenring_sent_bytes",
            "Bytes sent for attention, without Ulysses' exchanges",
            ["rank"],
            registry=self.registry,
        )
        self._exposed = Histogram(
            "tokenring_step_exposed_ratio",
            "Share of a request's steps, or of an answer, in which a rank waits for messages of attention; on CPUs",
            buckets=_SHARE_BUCKETS,
            registry=self.registry,
        )
        for rank in range(dims.ranks):
            self._sent.labels(str(rank))
        for outcome in _OUTCOMES:
            self._requests.labels(kind, outcome)
        for reason in RESTART_REASONS:
            self._restarts.labels(reason)
        self._duration.labels(kind)
        self._steps = None if kind == "text" else _StepMeters(self.registry, dims.schedule)
        self._answers = _AnswerMeters(self.registry) if kind == "text" else None
        waiting = Gauge("tokenring_requests_waiting", "Requests that wait", registry=self.registry)
        waiting.set_function(lambda: len(queue))
        Info("tokenring_build", "What runs", registry=self.registry).info({"version": __version__})
        Info("tokenring_schedule", "How the ranks share the work", registry=self.registry).info(
            {"schedule": dims.schedule, "ulysses": str(dims.ulysses), "tokenring": str(dims.tokenring)}
        )

    def watch(self, owner: EngineOwner) -> None:
        """Show what its ranks are doing."""
        running = Gauge("tokenring_requests_running", "Requests that are served", registry=self.registry)
        running.set_function(lambda: float(owner.running is not None))
        self.registry.register(_Ranks(owner))
        nvml = management_library()
        if nvml is not None:
            self.registry.register(GpuMeters(nvml))

    def refused(self, kind: str) -> None:
        """A request was refused before it waited."""
        self._requests.labels(kind, "refused").inc()

    def ended(self, job: Job) -> None:
        """A job is over."""
        self._requests.labels(job.order.kind, job.status.value).inc()
        if job.began is None or job.ended is None:
            return
        self._queued.observe(job.began - job.asked)
        if job.status is JobStatus.CANCELLED and self._steps is not None:
            self._steps.cancelled.inc(job.step)
        if job.status is JobStatus.DONE:
            self._duration.labels(job.order.kind).observe(job.ended - job.began)
            if job.predicted and job.step == job.order.all_steps:  # an answer may have ended early
                self._ratio.observe((job.ended - job.began) / job.predicted)

    def step(self, seconds: float) -> None:
        """A step was made."""
        assert self._steps is not None
        self._steps.duration.observe(seconds)

    def took(self, stages: StageSeconds) -> None:
        """A call of the engine is over."""
        assert self._steps is not None
        self._steps.took(stages)

    def sent(self, sizes: Sequence[int]) -> None:
        """Count bytes that ranks have sent."""
        for rank, size in enumerate(sizes):
            self._sent.labels(str(rank)).inc(size)

    def exposed(self, shares: Sequence[float]) -> None:
        """Ranks have waited for such shares of what they did."""
        for share in shares:
            self._exposed.observe(share)

    def memory(self, ratio: float) -> None:
        """A rank's peak was measured, which was predicted."""
        self._memory_ratio.observe(ratio)

    def answered(self, times: AnswerTimes) -> None:
        """An answer was given."""
        assert self._answers is not None
        self._answers.take(times)

    def restarted(self, reason: str) -> None:
        """Ranks were started again."""
        self._restarts.labels(reason).inc()

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)


class _StepMeters:
    """Of what is denoised."""

    def __init__(self, registry: CollectorRegistry, schedule: str) -> None:
        duration = Histogram(
            "tokenring_step_duration_seconds",
            "Denoising steps",
            ["schedule"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.duration = duration.labels(schedule)
        self.cancelled = Counter(
            "tokenring_cancelled_steps", "Steps of requests that were cancelled", registry=registry
        )
        self._stages = Histogram(
            "tokenring_stage_duration_seconds",
            "Seconds before, during and after the steps of a request",
            ["stage"],
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        for stage in asdict(StageSeconds(0, 0, 0)):
            self._stages.labels(stage)

    def took(self, stages: StageSeconds) -> None:
        """A call of the engine is over."""
        for stage, seconds in asdict(stages).items():
            self._stages.labels(stage).observe(seconds)


class _AnswerMeters:
    """Of a language model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tokens = Counter(
            "tokenring_tokens",
            "Tokens of prompts, reused ones among them, and tokens of answers",
            ["kind"],
            registry=registry,
        )
        self._prompt, self._reused, self._answer = (tokens.labels(kind) for kind in ("prompt", "reused", "answer"))
        self._first = Histogram(
            "tokenring_first_token_seconds",
            "Seconds from the start of a request to the first piece of its answer",
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._token = Histogram(
            "tokenring_token_duration_seconds",
            "Seconds of a later token, averaged over an answer",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )

    def take(self, times: AnswerTimes) -> None:
        """An answer was given."""
        self._prompt.inc(times.reply.prompt_tokens)
        self._reused.inc(times.reply.reused_tokens)
        self._answer.inc(len(times.reply.tokens))
        if times.first is not None:
            self._first.observe(times.first)
        if times.token is not None:
            self._token.observe(times.token)


class _Ranks(Collector):
    """Which ranks run, and what memory they take, looked at when somebody asks."""

    def __init__(self, owner: EngineOwner) -> None:
        self._owner = owner

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("tokenring_rank_up", "Whether a rank runs", labels=["rank"])
        for rank, runs in enumerate(self._owner.up):
            up.add_metric([str(rank)], float(runs))
        yield up
        memory = GaugeMetricFamily("tokenring_rank_memory_bytes", "Memory of a rank", labels=["rank", "kind"])
        for rank, size in self._owner.memory.items():
            memory.add_metric([str(rank), "resident"], size)
        yield memory
