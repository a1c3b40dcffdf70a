"""What happens to ranks and messages beside what a machine and its links say."""

from __future__ import annotations

import numpy as np

from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Amounts, Direction

__all__ = ["NO_EFFECTS", "Effects"]


class Effects:
    """Nothing happens: this is what is predicted for a user's machine. The emulated networks have more to them.

    Attributes:
        takes_turns: Whether two ranks send one after the other in an all-to-all.
        transfer_work: Seconds of processor time that each byte sent costs, where ranks share cores.
    """

    takes_turns: bool = False
    transfer_work: float = 0.0

    def late(self, rank: int) -> float:
        """Seconds by which a rank begins a call later than the first one."""
        return 0.0

    def speed(self, cores: float, computing: int, carrying: float) -> float:
        """How fast each rank computes where all share cores: 1 is undisturbed.

        Args:
            cores: That ranks share.
            computing: Ranks that compute.
            carrying: Cores that messages keep busy.
        """
        return min(1.0, cores / computing)

    def weights(self, since: Amounts) -> Amounts:
        """In what proportion messages share a link, by when each was started."""
        return np.ones(len(since))

    def at_once(self, network: Network, way: Direction) -> float:
        """Bytes that a link carries at once after a pause."""
        return 0.0

    def work_per_byte(self, network: Network, way: Direction) -> float:
        """Seconds of a shared core that a byte on a link costs."""
        return 0.0


NO_EFFECTS = Effects()
