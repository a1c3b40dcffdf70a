"""The thread that owns the engine: it serves jobs one after the other, and watches the ranks in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from tokenring_xdit import liveness
from tokenring_xdit.errors import EngineError, OutputError, TokenRingError
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.errors import UnavailableError
from tokenring_xdit.serve.jobs import Job, JobStatus
from tokenring_xdit.serve.queue import JobQueue
from tokenring_xdit.serve.watch import LOST_REASONS, Lost, RankWatch

__all__ = ["RESTART_REASONS", "EngineOwner", "JobObserver", "JobRunner", "ServiceState"]

log = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks at ranks that have nothing to do."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to start ranks again."""

_UNKNOWN_WAIT = 10.0
"""Seconds after which somebody may ask again, where nothing can be predicted."""


_FAILED = "failed"

RESTART_REASONS = (*LOST_REASONS, _FAILED)
"""Why ranks are started again."""


class ServiceState(Enum):
    """Whether requests are served."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    BROKEN = "broken"


_STARTING = (ServiceState.LOADING, ServiceState.RESTARTING)


class JobObserver(Protocol):
    """Who takes note of what happens."""

    def ended(self, job: Job) -> None:
        """A job is over."""

    def restarted(self, reason: str) -> None:
        """Ranks were started again."""


class JobRunner(Protocol):
    """What an engine is used for."""

    def make(self, engine: Engine, job: Job, most_silence: float) -> list[Any]:
        """Do a job; what it raises is how the job failed.

        Args:
            engine: Which is ready.
            job: To be moved on, and given up where its client wants that.
            most_silence: Seconds without a sign of life from the ranks, where nothing better is known.
        """

    def seconds(self, job: Job) -> float | None:
        """Seconds that a job has still to be served for, by what is known; ``None`` where nothing is."""

    def peak_bytes(self, job: Job) -> int | None:
        """Bytes that the rank which holds most will hold for it, by what is known; ``None`` where nothing is."""


class EngineOwner:
    """Owns an engine.

    Args:
        make: Makes the engine, in the thread that will use it; its ranks are started later.
        queue: Where jobs wait.
        runner: What the engine is used for.
        observer: Called with what happens.
        on_broken: Called where no engine can be made, or the server cannot go on.
        prepare: What is done with the engine before anybody is served; where it fails, the engine is closed.
        after: Called when a job is over and its client knows.
        renewed: Called when ranks have been started again.

    Attributes:
        engine: The engine, once it has loaded.
        running: The job that it serves.
        state: Whether requests are served.
        reason: Why not.
        error: Why no engine could be made, or the server cannot go on.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        queue: JobQueue,
        runner: JobRunner,
        observer: JobObserver,
        on_broken: Callable[[], object] = lambda: None,
        prepare: Callable[[Engine], object] = lambda engine: None,
        after: Callable[[], object] = lambda: None,
        renewed: Callable[[], object] = lambda: None,
    ) -> None:
        self.engine: Engine | None = None
        self.running: Job | None = None
        self.state, self.reason = ServiceState.LOADING, "the ranks load the model"
        self.error: Exception | None = None
        self._make, self._queue, self._runner = make, queue, runner
        self._observer, self._on_broken, self._prepare = observer, on_broken, prepare
        self._after, self._renewed = after, renewed
        self._watch: RankWatch | None = None
        self._most_silence = 0.0
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokenring-owner", daemon=True)

    # -- for other threads -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load, and serve from then on."""
        self._thread.start()

    @property
    def up(self) -> list[bool]:
        """Which ranks run, by rank."""
        return [] if self._watch is None else self._watch.up()

    @property
    def memory(self) -> dict[int, int]:
        """Resident bytes of ranks."""
        return {} if self._watch is None else self._watch.memory()

    def refuse_unready(self) -> None:
        """Refuse a request that cannot be served now.

        Raises:
            UnavailableError: There is no engine that is ready.
        """
        if self.state is not ServiceState.READY:
            raise UnavailableError(
                f"the server is {self.state.value}: {self.reason}",
                status=503,
                code=self.state.value,
                retry_after=_UNKNOWN_WAIT,
            )

    def submit(self, job: Job) -> None:
        """Have a job served when its turn has come.

        Raises:
            UnavailableError: The queue is full, or there is no engine that is ready.
        """
        job.predicted_bytes = self._runner.peak_bytes(job)
        with self._changing:
            self.refuse_unready()
            entered = self._queue.enter(job)
        if not entered:
            raise self._full()

    def refuse_full(self, coming: int) -> None:
        """Refuse a request before it is read, where it would find no place.

        Args:
            coming: Other uploads that are being read.

        Raises:
            UnavailableError: The queue is full, or would be by those that are coming.
        """
        if len(self._queue) >= self._queue.most or coming > self._queue.most:
            raise self._full()

    def _full(self) -> UnavailableError:
        wait = self.seconds_left(self.running) if self.running is not None else None
        return UnavailableError(
            f"{self._queue.most} requests wait already, which is as many as may: ask again later",
            status=429,
            code="queue_full",
            retry_after=_UNKNOWN_WAIT if wait is None else wait,
        )

    def cancel(self, job: Job, why: Exception) -> None:
        """Give a job up: at once where it waits, at its next step where it is served."""
        if not job.status.over and job.cancelled is None:
            job.cancelled = why
            if self._queue.leave(job):
                self._end(job, JobStatus.CANCELLED, error=why)
            else:
                job.interrupt()

    def seconds_left(self, job: Job) -> float | None:
        """Seconds until a job is done, those before it included; ``None`` where nothing is known, or it is over."""
        if job.status.over:
            return None
        running = self.running
        before = [] if running is None or running.status.over else [running]
        waiting = self._queue.waiting()
        if job in waiting:
            before += waiting[: waiting.index(job) + 1]
        left = [self._runner.seconds(each) for each in before]
        return None if not left or None in left else sum(seconds for seconds in left if seconds is not None)

    def stop(self, grace: float) -> None:
        """Serve nothing any more, give up what runs and waits, and end the ranks.

        Args:
            grace: Seconds that the running job gets to reach its next step. Ranks that load get none.
        """
        with self._changing:
            starting = self.state in _STARTING
            self.state, self.reason = ServiceState.STOPPING, "it was told to end"
        self._stopping.set()
        for job in self._queue.waiting():
            self.cancel(job, _told_to_end())
        running = self.running
        if running is not None:
            self.cancel(running, _told_to_end())
        if not starting or self.engine is None:  # which is made, and not started
            self._thread.join(grace)
        if self.engine is not None:
            self.engine.close()
            self._thread.join(grace)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.engine = self._make()  # from here on stop() closes it
            if not self._stopping.is_set():
                self.engine.start()
                self._prepare(self.engine)
        except Exception as error:
            if self.engine is not None:
                self.engine.close()
            if not self._stopping.is_set():  # else it was given up
                self._break("the ranks could not load the model", error)
            return
        if self._stopping.is_set():
            self.engine.close()
            return
        try:
            self._serve_all(self.engine)
        except Exception as error:  # a fault of this service: without this thread nothing would be served, ever
            log.exception("the server cannot go on")
            self._break("it failed, and its log says why", error)

    def _break(self, reason: str, error: Exception) -> None:
        self.error = error
        self._become(ServiceState.BROKEN, reason)
        self._on_broken()

    def _serve_all(self, engine: Engine) -> None:
        self._most_silence = engine.timeout
        self._look_after(engine)
        self._become(ServiceState.READY, "")
        while not self._stopping.is_set():
            self._queue.wait(_LOOK)
            lost = self._lost()
            if lost is not None:
                self._bring_back(engine, lost)
            job = self._queue.next()  # only now: if ranks cannot restart, waiting clients get an error
            if job is not None:
                self._serve(engine, job)

    def _become(self, state: ServiceState, reason: str) -> None:
        with self._changing:
            if self.state is not ServiceState.STOPPING:
                self.state, self.reason = state, reason

    def _look_after(self, engine: Engine) -> None:
        self._watch = RankWatch(engine.workers, liveness.limit())

    def _lost(self) -> Lost | None:
        assert self._watch is not None
        return self._watch.look()

    def _bring_back(self, engine: Engine, lost: Lost) -> None:
        """Start the ranks again until it succeeds; after the first failure waiting clients get an error."""
        self._become(ServiceState.RESTARTING, lost.words)
        log.warning("%s: starting the ranks again", lost.words)
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            if self._watch is not None:
                self._watch.kill()
            try:
                engine.timeout = self._most_silence
                engine.start()
            except Exception as error:
                if self._stopping.is_set():  # which has closed the engine
                    return
                log.error("the ranks could not be started again: %s", error)
                self._become(ServiceState.RESTARTING, f"{lost.words}, and could not be started again yet")
                for job in self._queue.waiting():
                    self.cancel(job, EngineError("the ranks could not be started again"))
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._look_after(engine)
            self._renewed()
            self._observer.restarted(lost.reason)
            self._become(ServiceState.READY, "")
            return

    def _serve(self, engine: Engine, job: Job) -> None:
        self.running = job
        if self._stopping.is_set():  # which stop() may not have seen
            self.cancel(job, _told_to_end())
        job.predicted = self._runner.seconds(job)
        job.begin()
        try:
            made = self._runner.make(engine, job, self._most_silence)
        except Exception as error:
            self._give_up(job, error)
        else:
            self._end(job, JobStatus.DONE, made=made)
        finally:
            self.running = None
        self._after()
        if len(engine.processes) < len(self.up) and not self._stopping.is_set():
            self._bring_back(engine, Lost(_FAILED, "ranks were ended after a request had failed"))

    def _give_up(self, job: Job, error: Exception) -> None:
        if job.cancelled is not None:
            self._end(job, JobStatus.CANCELLED, error=job.cancelled)
            return
        if isinstance(error, (EngineError, OutputError)) or not isinstance(error, TokenRingError):
            log.error("request %s failed: %s", job.id, error, exc_info=not isinstance(error, TokenRingError))
        self._end(job, JobStatus.FAILED, error=error)

    def _end(
        self, job: Job, status: JobStatus, *, made: list[object] | None = None, error: Exception | None = None
    ) -> None:
        job.end(status, made=made, error=error, noted=self._observer.ended)


def _told_to_end() -> UnavailableError:
    return UnavailableError("the server was told to end", status=503, code="stopping")
