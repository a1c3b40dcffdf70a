"""Ranks that somebody else started, such as ``torchrun`` on several nodes: the first gives orders to all."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from tokenring_xdit.lab.probe.station import Station

__all__ = ["World"]


class World:
    """The ranks of the process group, this one included.

    Args:
        station: This rank.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self.ranks = dist.get_world_size()

    def ask(self, order: Any, timeout: float) -> list[Any]:
        """On the first rank: give all an order; returns what each answered."""
        self._tell(order)
        answers: list[Any] = [None] * self.ranks
        dist.gather_object(self._station.carry_out(order), answers)
        return answers

    def serve(self) -> None:
        """On the other ranks: carry out orders until :meth:`dismiss`."""
        while (order := self._tell(None)) is not None:
            dist.gather_object(self._station.carry_out(order))

    def dismiss(self) -> None:
        """On the first rank: let the others go."""
        self._tell(None)

    @staticmethod
    def _tell(order: Any) -> Any:
        box = [order]
        dist.broadcast_object_list(box, 0)
        return box[0]
