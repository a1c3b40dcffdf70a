"""The owner with an engine that is made up: what it does with jobs, whatever happens to them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.serve.made_up import PATIENCE, JobObserver, MadeUpEngine, job, until
from tokenring_xdit.errors import CancelledError, ConfigurationError, EngineError, OutputError
from tokenring_xdit.serve.engine_owner import EngineOwner, ServiceState
from tokenring_xdit.serve.errors import UnavailableError
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.jobs import Event, InputPictures, Job, JobEnded, JobStatus, PictureOrder
from tokenring_xdit.serve.picture_runner import PictureRunner
from tokenring_xdit.serve.queue import JobQueue


@contextmanager
def kept(engine: Any = None, most: int = 2, *warm_ups: PictureOrder) -> Iterator[tuple[EngineOwner, Any, JobObserver]]:
    """An owner that is ready, its engine, and who takes note."""
    engine, observer = engine or MadeUpEngine(), JobObserver()
    runner = PictureRunner(Forecast(), observer.step)
    owner = EngineOwner(
        lambda: engine, JobQueue(most), runner, observer, prepare=lambda made: runner.warm_up(made, warm_ups)
    )
    owner.start()
    try:
        until(lambda: owner.state is ServiceState.READY)
        yield owner, engine, observer
    finally:
        engine.gate.set()
        owner.stop(PATIENCE)
        assert not owner._thread.is_alive()


def served(owner: EngineOwner, *jobs: Job) -> None:
    for each in jobs:
        owner.submit(each)
    for each in jobs:
        until(lambda each=each: each.status.over)  # type: ignore[misc]


def test_pictures_of_a_job_have_seeds_that_follow_each_other_and_teach_the_forecast() -> None:
    with kept() as (owner, engine, observer):
        heard: list[Event] = []
        one = job(heard, count=3, together=2, steps=2, pixels=100)
        served(owner, one)
        assert [picture.getpixel((0, 0))[0] for picture in one.made] == [0, 1, 2]
        assert isinstance(heard[-1], JobEnded)
        assert observer.outcomes == [JobStatus.DONE]
        again = job(count=1, steps=2, pixels=100)
        served(owner, again)
        assert again.predicted is not None
        assert engine.timeouts == [1800, 60, 60]  # something is known from the first batch on


def test_what_looks_at_pictures_is_not_given_up_by_what_looks_at_none() -> None:
    with kept(most=4) as (owner, engine, _):
        jobs = [job(steps=2, pixels=100, inputs=InputPictures(count)) for count in (0, 1, 0, 1)]
        served(owner, *jobs)
        assert engine.timeouts == [1800, 1800, 60, 60]
        assert [each.predicted is None for each in jobs] == [True, True, False, False]


def test_a_full_queue_refuses_and_says_when_to_ask_again() -> None:
    with kept() as (owner, engine, _):
        engine.gate.clear()
        jobs = [job() for _ in range(3)]
        owner.submit(jobs[0])
        until(lambda: owner.running is jobs[0])
        owner.submit(jobs[1])
        owner.submit(jobs[2])
        with pytest.raises(UnavailableError, match="2 requests wait already") as raised:
            owner.submit(job())
        assert (raised.value.status, raised.value.retry_after) == (429, 10)
        engine.gate.set()
        until(lambda: all(each.status is JobStatus.DONE for each in jobs))


def test_cancelling_is_for_one_job_and_too_late_it_is_for_none() -> None:
    with kept() as (owner, engine, observer):
        engine.gate.clear()
        running, waiting, other = job(), job(), job()
        owner.submit(running)
        until(lambda: owner.running is running)
        owner.submit(waiting)
        owner.submit(other)
        why = CancelledError("nobody wants it")
        owner.cancel(waiting, why)
        assert waiting.status is JobStatus.CANCELLED
        owner.cancel(running, why)
        assert running.status is JobStatus.RUNNING
        engine.gate.set()
        until(lambda: other.status.over)
        assert (running.status, running.error) == (JobStatus.CANCELLED, why)
        assert other.status is JobStatus.DONE
        owner.cancel(running, why)
        last = job()
        served(owner, last)
        assert last.status is JobStatus.DONE
        assert observer.outcomes == [JobStatus.CANCELLED, JobStatus.CANCELLED, JobStatus.DONE, JobStatus.DONE]


def test_a_refused_request_is_one_failure_and_the_next_is_served() -> None:
    with kept() as (owner, engine, observer):
        engine.error = ConfigurationError("the ranks refuse it")
        bad = job()
        served(owner, bad)
        assert (bad.status, bad.error) == (JobStatus.FAILED, engine.error)
        engine.error = None
        good = job()
        served(owner, good)
        assert good.status is JobStatus.DONE
        assert observer.restarts == []


def test_what_cannot_be_written_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with kept() as (owner, engine, _):
        engine.error = OutputError("/tmp/a.mp4 could not be written: No space left on device")
        bad = job()
        with caplog.at_level("ERROR"):
            served(owner, bad)
        assert bad.status is JobStatus.FAILED
        assert f"request {bad.id} failed: /tmp/a.mp4 could not be written" in caplog.text


def test_a_rank_that_dies_while_idle_is_brought_back_before_anybody_asks() -> None:
    with kept() as (owner, engine, observer):
        assert owner.up == [True]
        assert owner.memory[0] > 0
        engine.rank.kill()
        until(lambda: engine.starts == 2 and owner.state is ServiceState.READY)
        until(lambda: owner.up == [True])
        assert observer.restarts == ["died"]
        good = job()
        served(owner, good)
        assert good.status is JobStatus.DONE


def test_a_rank_that_is_stopped_for_too_long_is_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRING_LIVENESS_LIMIT", "0.5")
    with kept() as (owner, engine, observer):
        os.kill(engine.rank.pid, signal.SIGSTOP)
        until(lambda: observer.restarts == ["stopped"])
        until(lambda: owner.state is ServiceState.READY)
        assert engine.starts == 2


def test_ranks_are_started_again_with_the_timeout_that_was_said_whatever_was_made_before_anybody_asked() -> None:
    class Loading(MadeUpEngine):
        def start(self) -> None:
            loading.append(self.timeout)
            super().start()

    loading: list[float] = []
    with kept(Loading(), 2, PictureOrder("warm-up", 0, "a picture", steps=2, pixels=64**2)) as (owner, engine, _):
        assert engine.timeouts == [1800, 60]
        engine.rank.kill()
        until(lambda: engine.starts == 2 and owner.state is ServiceState.READY)
        assert loading == [1800, 1800]


def test_ranks_that_a_failure_has_ended_are_brought_back_at_once() -> None:
    class Fragile(MadeUpEngine):
        def generate(self, *words: Any, **more: Any) -> list[Any]:
            if self.starts == 1:
                self.close()
                self.rank = None
                raise EngineError("rank 0 was killed\n(log: /tmp/x)")
            return super().generate(*words, **more)

    with kept(Fragile()) as (owner, engine, observer):
        bad, good = job(), job()
        served(owner, bad)
        until(lambda: engine.starts == 2 and owner.state is ServiceState.READY)
        served(owner, good)
        assert (bad.status, good.status) == (JobStatus.FAILED, JobStatus.DONE)
        assert observer.restarts == ["failed"]


def test_who_asks_while_ranks_are_started_again_is_told_so() -> None:
    class Slow(MadeUpEngine):
        def start(self) -> None:
            if hasattr(self, "gate"):
                assert self.gate.wait(PATIENCE)
            super().start()

    with kept(Slow()) as (owner, engine, _):
        engine.gate.clear()
        engine.rank.kill()
        until(lambda: owner.state is ServiceState.RESTARTING)
        with pytest.raises(UnavailableError, match="rank 0 died while there was nothing to do") as raised:
            owner.submit(job())
        assert raised.value.status == 503
        engine.gate.set()
        until(lambda: owner.state is ServiceState.READY)


def test_who_waited_is_told_where_ranks_cannot_be_started_again() -> None:
    class Lost(MadeUpEngine):
        def start(self) -> None:
            if self.starts:
                raise EngineError("no memory is left")
            super().start()

    with kept(Lost()) as (owner, engine, _):
        engine.rank.kill()
        engine.rank.wait()
        owner._queue.enter(waiting := job())  # as if between two looks
        until(lambda: waiting.status is JobStatus.CANCELLED)
        assert str(waiting.error) == "the ranks could not be started again"


def test_a_fault_of_the_service_is_no_reason_to_say_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with kept() as (owner, _, observer):
        monkeypatch.setattr(observer, "ended", lambda job: 1 // 0)
        owner.submit(job())
        until(lambda: owner.state is ServiceState.BROKEN)
        assert isinstance(owner.error, ZeroDivisionError)


def test_at_the_end_whoever_waits_is_told() -> None:
    with kept() as (owner, engine, _):
        engine.gate.clear()
        running, waiting = job(), job()
        owner.submit(running)
        until(lambda: owner.running is running)
        owner.submit(waiting)
        ending = threading.Thread(target=owner.stop, args=(30,))
        ending.start()
        until(lambda: waiting.status.over)
        engine.gate.set()
        ending.join(PATIENCE)
        assert [each.status for each in (running, waiting)] == [JobStatus.CANCELLED] * 2
        assert isinstance(running.error, UnavailableError)
        with pytest.raises(UnavailableError, match="stopping"):
            owner.submit(job())


def test_an_engine_that_fails_before_anybody_is_served_is_closed() -> None:
    engine, seen = MadeUpEngine(), JobObserver()
    engine.error = EngineError("no memory is left")
    runner, order = PictureRunner(Forecast(), seen.step), PictureOrder("warm-up", 0)
    made: Any = engine
    owner = EngineOwner(lambda: made, JobQueue(1), runner, seen, prepare=lambda made: runner.warm_up(made, [order]))
    owner.start()
    until(lambda: owner.state is ServiceState.BROKEN)
    assert owner.error is engine.error
    assert engine.rank is not None and engine.rank.poll() is not None


def test_the_end_closes_an_engine_that_is_being_prepared() -> None:
    engine, seen = MadeUpEngine(), JobObserver()
    made: Any = engine
    begun, closed = threading.Event(), threading.Event()
    engine.close = closed.set  # type: ignore[method-assign]

    def prepare(_: Any) -> None:
        begun.set()
        assert closed.wait(PATIENCE)
        raise EngineError("it was closed")

    owner = EngineOwner(lambda: made, JobQueue(1), PictureRunner(Forecast(), seen.step), seen, prepare=prepare)
    owner.start()
    assert begun.wait(PATIENCE)
    owner.stop(0.1)
    MadeUpEngine.close(engine)
    assert closed.is_set()
    assert owner.state is ServiceState.STOPPING


class Unhurried(MadeUpEngine):
    """Whose start takes until it is closed, from some attempt on."""

    def __init__(self, quick: int) -> None:
        super().__init__()
        self.quick, self.begun, self.closed = quick, threading.Event(), threading.Event()
        self.ended: list[bool] = []

    def start(self) -> None:
        """Start the process, or wait."""
        if self.starts < self.quick:
            super().start()
            return
        self.begun.set()
        self.ended.append(self.closed.wait(10))
        raise EngineError("it was closed")

    def close(self) -> None:
        """End both."""
        self.closed.set()
        super().close()


def test_the_end_waits_for_no_ranks_that_load(caplog: pytest.LogCaptureFixture) -> None:
    engine, seen = Unhurried(0), JobObserver()
    made: Any = engine
    owner = EngineOwner(lambda: made, JobQueue(1), PictureRunner(Forecast(), seen.step), seen)
    owner.start()
    assert engine.begun.wait(PATIENCE)
    owner.stop(PATIENCE)
    assert engine.ended == [True]
    assert owner.error is None
    assert not caplog.records


def test_the_end_waits_for_no_ranks_that_are_started_again(caplog: pytest.LogCaptureFixture) -> None:
    with kept(Unhurried(1)) as (owner, engine, _):
        engine.rank.kill()
        assert engine.begun.wait(PATIENCE)
        owner.stop(PATIENCE)
        assert engine.ended == [True]
        assert [each.levelname for each in caplog.records] == ["WARNING"]  # that they are started again


def test_an_engine_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[bool] = []

    def make() -> Any:
        raise ConfigurationError("there is no such model")

    seen = JobObserver()
    runner = PictureRunner(Forecast(), seen.step)
    owner = EngineOwner(make, JobQueue(1), runner, seen, lambda: broken.append(True))
    owner.start()
    until(lambda: broken == [True])
    assert owner.state is ServiceState.BROKEN
    assert str(owner.error) == "there is no such model"
    owner.stop(10)
