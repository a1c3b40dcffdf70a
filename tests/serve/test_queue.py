"""The queue and the registry, without an engine."""

from __future__ import annotations

import threading

from tests.serve.made_up import job
from tokenring_xdit.errors import EngineError
from tokenring_xdit.serve.jobs import (
    Began,
    Event,
    Job,
    JobEnded,
    JobStatus,
    PictureOrder,
    Stepped,
    TextOrder,
    progress_steps,
)
from tokenring_xdit.serve.queue import JobQueue
from tokenring_xdit.serve.registry import JobRegistry


def test_first_come_first_served_and_no_more_than_may_wait() -> None:
    queue, first, second = JobQueue(2), job(), job()
    assert queue.enter(first)
    assert queue.enter(second)
    assert not queue.enter(job())
    assert queue.waiting() == [first, second]
    assert queue.next() is first
    assert queue.leave(second)
    assert not queue.leave(second)
    assert queue.next() is None


def test_who_waits_for_a_job_is_told_at_once() -> None:
    queue, coming, got = JobQueue(1), job(), []

    def wait() -> None:
        queue.wait(300)
        got.append(queue.next())

    waiter = threading.Thread(target=wait)
    waiter.start()
    queue.enter(coming)
    waiter.join(300)
    assert got == [coming]


def test_a_job_tells_what_happens_to_it() -> None:
    heard: list[Event] = []
    one = job(heard, steps=2)
    one.begin()
    one.advance(1)
    one.advance(2, "a preview")
    assert one.status is JobStatus.RUNNING
    one.end(JobStatus.DONE, made=["a picture"])
    assert heard == [Began(), Stepped(1), Stepped(2, "a preview"), JobEnded()]
    assert one.status.over
    assert one.take() == ["a picture"]
    assert one.made == []


def test_nothing_is_kept_of_a_job_that_nobody_waits_for_whenever_it_ends() -> None:
    one = job()
    assert one.take() == []
    one.end(JobStatus.DONE, made=["a picture"])
    assert one.made == []


def test_of_a_job_that_is_over_nothing_large_is_kept() -> None:
    order = TextOrder("text", 3, ({"role": "user", "content": "a book"},), {"stop": "x"}, 7, 9)
    said = Job(order, lambda event: None)
    drawn, stored = job(arguments={"width": 8}), job(arguments={"width": 8}, stored=True)
    for each in (said, drawn, stored):
        try:
            raise EngineError("rank 0 failed") from ValueError("which keeps its frames")
        except EngineError as error:
            each.end(JobStatus.FAILED, error=error)
        assert each.error is not None
        assert (each.error.__traceback__, each.error.__cause__, each.error.__context__) == (None, None, None)
    assert said.order == TextOrder("text", 3, (), {}, 7, 9)
    assert drawn.order == PictureOrder("image", 0, "")
    assert stored.order == PictureOrder("image", 0, "a red circle", stored=True)  # which its client is told


def test_pictures_are_made_in_batches() -> None:
    order = PictureOrder("image", 0, "", count=5, together=2, steps=3)
    assert order.batches == [2, 2, 1]
    assert order.all_steps == 9


def test_previews_are_spread_evenly_and_none_is_of_the_last_step() -> None:
    assert progress_steps(28, 3) == {7, 14, 21}
    assert progress_steps(2, 1) == {1}
    assert progress_steps(1, 3) == set()
    assert progress_steps(2, 3) == {1}


def test_the_registry_forgets_the_oldest_that_are_over_and_none_that_is_under_way() -> None:
    registry = JobRegistry(kept=2)
    under_way, over = job(name="under-way"), [job(name=str(i)) for i in range(4)]
    assert registry.enter(under_way)
    for each in over:
        assert registry.enter(each)
        each.end(JobStatus.DONE)
    assert [each.id for each in registry.all()] == ["under-way", "2", "3"]
    assert not registry.enter(job(name="3"))
    assert registry.find("0") is None


def test_the_registry_knows_whatever_is_held_beside_the_last_ones() -> None:
    held = {"0", "1"}
    registry = JobRegistry(kept=2, held=lambda: held)
    for number in range(5):
        one = job(name=str(number))
        assert registry.enter(one)
        one.end(JobStatus.DONE)
    assert [each.id for each in registry.all()] == ["0", "1", "3", "4"]
    assert not registry.enter(job(name="0"))
    held.remove("0")
    assert registry.enter(job(name="5"))
    assert [each.id for each in registry.all()] == ["1", "4", "5"]
