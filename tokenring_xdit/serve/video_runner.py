"""Videos: generated as pictures are, and stored for their clients, or sent at once."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.jobs import Job, PictureOrder
from tokenring_xdit.serve.picture_runner import PictureRunner
from tokenring_xdit.serve.video_store import VideoStore

__all__ = ["VideoRunner"]


class VideoRunner:
    """Makes videos; see :class:`tokenring_xdit.serve.engine_owner.JobRunner`.

    Args:
        drawing: Makes their frames.
        store: Keeps them, by the names of their jobs.
    """

    def __init__(self, drawing: PictureRunner, store: VideoStore) -> None:
        self._drawing, self._store = drawing, store

    def make(self, engine: Engine, job: Job, most_silence: float) -> list[Any]:
        """Make the one video of a job; returns how it is kept, or the bytes of one that is not."""
        assert isinstance(job.order, PictureOrder)
        (frames,) = self._drawing.make(engine, job, most_silence)
        job.refuse_cancelled()
        if not job.order.stored:
            return [self._store.written(frames, job.order.fps)]
        video = self._store.add(job.id, frames, job.order.fps)
        if job.cancelled is not None:  # while it was written: whoever cancelled found nothing to remove
            self._store.remove(job.id)
            job.refuse_cancelled()
        return [video]

    def peak_bytes(self, job: Job) -> int | None:
        """The most that a rank will hold, its model included."""
        return self._drawing.peak_bytes(job)

    def seconds(self, job: Job) -> float | None:
        """Seconds that are left, without writing the file."""
        return self._drawing.seconds(job)
