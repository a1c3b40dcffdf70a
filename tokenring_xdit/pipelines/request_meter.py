"""What a request takes of a rank: memory, bytes sent, and waiting for messages with nothing to compute meanwhile."""

from __future__ import annotations

import os
import time

import torch

from tokenring_xdit.attention.groups import all_bytes_sent, all_seconds_waited
from tokenring_xdit.pipelines.messages import RankFigures
from tokenring_xdit.pipelines.peaks import PeakMeter

__all__ = ["RequestMeter"]


class RequestMeter:
    """Measures one request after the other. To be made once the model has loaded.

    Args:
        device: Where the rank computes.
        ranks: Ranks of its world.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self._peak = PeakMeter(device, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
        self._looks: list[tuple[float, float | None]] = []
        self._sent = 0

    def begin(self) -> None:
        """A request begins."""
        self._peak.begin()
        self._looks, self._sent = [], all_bytes_sent()

    def look(self) -> None:
        """Look at the clock, and at what this rank has waited: from the first look to the last one that is measured.

        Looks are behind steps: the first step opens connections and allocates, and does not count.
        """
        self._looks = [*self._looks[:1], (time.perf_counter(), all_seconds_waited())]

    def end(self) -> RankFigures:
        """What it took."""
        return RankFigures(self._peak.end(), max(0, all_bytes_sent() - self._sent), self._exposed())

    def _exposed(self) -> float | None:
        if len(self._looks) < 2:
            return None
        (began, before), (ended, after) = self._looks
        if before is None or after is None:
            return None
        return min(1.0, max(0.0, (after - before) / (ended - began)))  # a group may be gone, with what it has waited
