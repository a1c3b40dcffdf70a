"""All requests by name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

from tokenring_xdit.serve.jobs import Job

__all__ = ["JobRegistry"]


class JobRegistry:
    """All requests by name: those under way, and the last ones that are over.

    Args:
        kept: How many that are over are kept.
        held: Names of those that are kept besides, as there is still something to fetch.
    """

    def __init__(self, kept: int = 1000, held: Callable[[], Collection[str]] = frozenset) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._kept, self._held = kept, held
        self._changing = threading.Lock()

    def enter(self, job: Job) -> bool:
        """Take note of a job; ``False`` where its name is another one's."""
        with self._changing:
            if job.id in self._jobs:
                return False
            held = self._held()
            over = [name for name, each in self._jobs.items() if each.status.over and name not in held]
            for name in over[: max(0, len(over) - self._kept + 1)]:
                del self._jobs[name]
            self._jobs[job.id] = job
            return True

    def strike(self, job: Job) -> None:
        """Forget one that was not accepted after all, or whose outcome is no longer wanted."""
        with self._changing:
            self._jobs.pop(job.id, None)

    def find(self, name: str) -> Job | None:
        """The job of a name."""
        return self._jobs.get(name)

    def all(self) -> list[Job]:
        """All of them, the newest last."""
        with self._changing:
            return list(self._jobs.values())
