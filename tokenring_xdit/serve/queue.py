"""Where jobs wait for the engine: a queue of bounded length."""

from __future__ import annotations

import threading
from collections import deque

from tokenring_xdit.serve.jobs import Job

__all__ = ["JobQueue"]


class JobQueue:
    """Jobs that wait, first come, first served; any thread may enter or leave.

    Args:
        most: How many may wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._jobs)

    def waiting(self) -> list[Job]:
        """All who wait, the next one first."""
        with self._changed:
            return list(self._jobs)

    def enter(self, job: Job) -> bool:
        """Stand behind the others; ``False`` where the queue is full."""
        with self._changed:
            if len(self._jobs) >= self.most:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            return True

    def leave(self, job: Job) -> bool:
        """Wait no longer; ``False`` where the job did not wait."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            return True

    def wait(self, seconds: float) -> None:
        """Wait until somebody stands here, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs, timeout=seconds)

    def next(self) -> Job | None:
        """Whose turn it is; ``None`` where nobody waits."""
        with self._changed:
            return self._jobs.popleft() if self._jobs else None
