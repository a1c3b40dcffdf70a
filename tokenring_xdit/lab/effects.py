"""What ranks that share the cores of one machine do to each other over gloo, and emulated links to what they carry.

Simulations that are given this are compared with what was measured on emulated networks; those for users are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenring_xdit.lab.segments import CATCH_UP, segment
from tokenring_xdit.planning import Effects
from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Amounts, Direction

__all__ = ["LabEffects"]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Its multiples, whole numbers left away, lie as far from each other as can be, however many there are."""


@dataclass(frozen=True)
class LabEffects(Effects):
    """Effects by their sizes; 0 is none.

    Attributes:
        takes_turns: Whether two ranks take turns in the all-to-all of Ulysses. Those of gloo do: alone on a link they
            reach little more than half of full duplex (measured), as if one sent before the other.
        transfer_work: Seconds of processor time that each byte sent costs.
        segment_work: The same for each segment on each link (:mod:`tokenring_xdit.lab.segments`).
        kept_cores: Share of the cores that computing ranks keep, however much the links ask of them: what busy cores
            carry they carry in bulk.
        skew: Seconds by which ranks begin a call apart, at most. Without it ranks that do alike stay in step, and
            their messages never come to a port together as real ones do.
        unevenness: What each message gets less than the one that began before it, where they share a link: a connection
            of TCP that begins first has filled the queue before the next one comes, and keeps its place there.
        least_weight: What it gets at least, of what the first of all gets: connections catch up with those before them.
        catch_up: Seconds that an emulated link may catch up after a pause: it sends so much, and a segment more, at
            once.
    """

    takes_turns: bool = False
    transfer_work: float = 0.0
    segment_work: float = 0.0
    kept_cores: float = 0.6
    skew: float = 0.0
    unevenness: float = 0.0
    least_weight: float = 0.6
    catch_up: float = 0.0

    @classmethod
    def fitted(cls, threads: int) -> LabEffects:
        """What was found on two cores by fitting simulations to measurements (docs/planner.md).

        Args:
            threads: That a rank computes with.
        """
        return cls(
            takes_turns=True,
            transfer_work=7e-9 / threads,
            segment_work=6e-5 / threads,
            skew=5e-3,
            unevenness=0.03,
            catch_up=CATCH_UP,
        )

    def late(self, rank: int) -> float:
        """As in the base class."""
        return self.skew * (rank * _GOLDEN_RATIO % 1)

    def speed(self, cores: float, computing: int, carrying: float) -> float:
        """As in the base class."""
        return min(1.0, max(cores - carrying, self.kept_cores * cores) / computing)

    def weights(self, since: Amounts) -> Amounts:
        """As in the base class."""
        if not self.unevenness:
            return super().weights(since)
        place = np.argsort(np.argsort(since, kind="stable"), kind="stable")
        weights: Amounts = np.maximum((1 - self.unevenness) ** place, self.least_weight)
        return weights

    def at_once(self, network: Network, way: Direction) -> float:
        """As in the base class; real links do not catch up."""
        if not self.catch_up or not network.is_emulated:
            return 0.0
        link = network.link(*way)
        return self.catch_up * network.payload_rate(way) + segment(network, link, way[0]) * network.payload_share

    def work_per_byte(self, network: Network, way: Direction) -> float:
        """As in the base class."""
        return self.segment_work and self.segment_work / segment(network, network.link(*way), way[0])
