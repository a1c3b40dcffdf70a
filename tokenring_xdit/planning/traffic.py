"""Messages on the links of a network, all at once: transfers are fluid, and share each link evenly or nearly so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tokenring_xdit.planning.effects import Effects
from tokenring_xdit.planning.steps import Message
from tokenring_xdit.topology import Network
from tokenring_xdit.topology.sharing import Amounts, Direction, Numbers, fill

__all__ = ["Traffic"]

_LAST_BYTE = 1e-9  # what is left of one is rounding
_NO_LINK = -1


class Traffic:
    """What is on its way, how fast, and what the links have carried.

    Args:
        network: Rank ``r`` is at its ``r``-th host.
        effects: What else happens on the way.
    """

    def __init__(self, network: Network, effects: Effects) -> None:
        self._network, self._effects = network, effects
        self._links: dict[Direction, int] = {}
        self._routes: dict[tuple[int, int], tuple[tuple[int, ...], float]] = {}  # links by number, and their delay
        self._fresh: list[tuple[Message, float]] = []
        self._changed = False
        self._part: Amounts = np.zeros(0)  # of each link what a byte a second takes
        self._work: Amounts = np.zeros(0)  # seconds of a shared processor that a byte on it costs
        self._bytes: Amounts = np.zeros(0)  # carried at its rate
        self._ahead: Amounts = np.zeros(0)  # and at once, after a pause
        self._most: Amounts = np.zeros(0)  # that it sends at once
        self._credit: Amounts = np.zeros(0)  # that it would now
        self._busy: Amounts = np.zeros(0)
        # An entry for each message that is on its way:
        self._messages = np.zeros(0, dtype=object)
        self._since: Amounts = np.zeros(0)
        self._left: Amounts = np.zeros(0)
        self._rates: Amounts = np.zeros(0)
        self._most_alone: Amounts = np.zeros(0)  # bytes a second that it reaches however free its links are
        self._paths: Numbers = np.zeros((0, 1), dtype=np.intp)  # the links of its route, the rest of a row none
        # And for each link what it carries in a second, and whether anything:
        self._loads: Amounts = np.zeros(0)
        self._used = np.zeros(0, dtype=bool)

    @property
    def link_bytes(self) -> dict[Direction, float]:
        """Bytes that each direction of a link has carried, of those that any message took."""
        return dict(zip(self._links, (self._bytes + self._ahead).tolist(), strict=True))

    @property
    def link_busy(self) -> dict[Direction, float]:
        """Seconds for which it has carried anything."""
        return dict(zip(self._links, self._busy.tolist(), strict=True))

    @property
    def busiest(self) -> float:
        """Seconds that the link which has carried most, for what it can, would have taken at its rate."""
        return float((self._bytes * self._part).max(initial=0.0))

    @property
    def work(self) -> float:
        """Processor cores that all of it keeps busy."""
        return self._effects.transfer_work * float(self._rates.sum()) + float(self._loads @ self._work)

    def start(self, message: Message, now: float) -> None:
        """Put a message on its way; it moves from the next :meth:`share` on."""
        self._fresh.append((message, now))

    def delay(self, message: Message) -> float:
        """Seconds that the links of its route need to pass anything on."""
        return self._route(message)[1]

    def share(self) -> None:
        """Find how fast everything goes, where that has changed."""
        if not self._fresh and not self._changed:
            return
        self._add_fresh()
        user, column = np.nonzero(self._paths != _NO_LINK)
        limit, weights = self._paths[user, column], self._effects.weights(self._since)
        part = self._part[limit] * weights[user]
        held = np.flatnonzero(np.isfinite(self._most_alone))  # each has a limit of its own
        levels, _ = fill(
            len(self._left),
            np.concatenate((user, held)),
            np.concatenate((limit, len(self._part) + np.arange(len(held)))),
            np.concatenate((part, weights[held] / self._most_alone[held])),
            np.ones(len(self._part) + len(held)),
        )
        self._rates = levels * weights
        self._loads = np.bincount(limit, self._rates[user], minlength=len(self._part)).astype(np.float64)
        self._used = np.bincount(limit, minlength=len(self._part)) > 0
        self._changed = False

    def next_end(self) -> float:
        """Seconds until the last byte of a message leaves, if nothing changes; infinite where nothing is on its way."""
        return float((self._left / self._rates).min()) if self._left.size else float("inf")

    def move(self, seconds: float, slack: float) -> list[tuple[Message, float]]:
        """Carry everything on.

        Args:
            seconds: For how long.
            slack: Seconds that do not count: what would be over then is over now.

        Returns:
            Messages whose last byte has left, and when they were started.
        """
        self._credit = np.minimum(self._most, self._credit + seconds * (1 / self._part - self._loads))
        if not self._left.size:
            return []
        self._bytes += seconds * self._loads
        self._busy[self._used] += seconds
        self._left -= seconds * self._rates
        over = self._left <= self._rates * slack + _LAST_BYTE
        if not over.any():
            return []
        gone = list(zip(self._messages[over].tolist(), self._since[over].tolist(), strict=True))
        going = ~over
        self._messages, self._since, self._left = self._messages[going], self._since[going], self._left[going]
        self._rates, self._paths, self._changed = self._rates[going], self._paths[going], True
        self._most_alone = self._most_alone[going]
        return gone

    def _add_fresh(self) -> None:
        routes = [self._route(message)[0] for message, _ in self._fresh]
        width = max(self._paths.shape[1], *(len(route) for route in routes)) if routes else self._paths.shape[1]
        paths = np.full((len(self._left) + len(routes), width), _NO_LINK, dtype=np.intp)
        paths[: len(self._left), : self._paths.shape[1]] = self._paths
        for row, route in enumerate(routes, len(self._left)):
            paths[row, : len(route)] = route
        messages = np.empty(len(routes), dtype=object)
        messages[:] = [message for message, _ in self._fresh]
        self._paths = paths
        self._messages = np.concatenate((self._messages, messages))
        self._since = np.concatenate((self._since, [now for _, now in self._fresh]))
        self._add_links(list(self._links)[len(self._part) :])
        sizes = [
            message.size - self._at_once(message, route)
            for (message, _), route in zip(self._fresh, routes, strict=True)
        ]
        self._left = np.concatenate((self._left, sizes))
        self._most_alone = np.concatenate((self._most_alone, [self._alone(message) for message, _ in self._fresh]))
        self._fresh.clear()

    def _add_links(self, new: Sequence[Direction]) -> None:
        nothing = np.zeros(len(new))
        most = [self._effects.at_once(self._network, way) for way in new]
        self._bytes, self._ahead, self._busy = (
            np.concatenate((known, nothing)) for known in (self._bytes, self._ahead, self._busy)
        )
        self._most, self._credit = (np.concatenate((known, most)) for known in (self._most, self._credit))
        self._part = np.concatenate((self._part, [1 / self._network.payload_rate(way) for way in new]))
        self._work = np.concatenate((self._work, [self._effects.work_per_byte(self._network, way) for way in new]))

    def _at_once(self, message: Message, route: tuple[int, ...]) -> float:
        """Let its links carry what of it they may at once."""
        if not self._most.any():
            return 0.0
        links = list(route)
        ahead = min(float(message.size), float(self._credit[links].min()))
        self._credit[links] -= ahead
        self._ahead[links] += ahead
        return ahead

    def _alone(self, message: Message) -> float:
        """Bytes a second that a message reaches at most, whatever else is on its way."""
        ends = (self._network.hosts[rank] for rank in (message.source, message.target))
        links = (self._network.link(*way) for way in pairwise(self._network.route(*ends)))
        return min((link.message_rate(message.size) for link in links), default=math.inf)

    def _route(self, message: Message) -> tuple[tuple[int, ...], float]:
        pair = message.source, message.target
        if pair not in self._routes:
            ways = list(pairwise(self._network.route(*(self._network.hosts[rank] for rank in pair))))
            links = tuple(self._links.setdefault(way, len(self._links)) for way in ways)
            self._routes[pair] = links, sum(self._network.link(*way).delay for way in ways)
        return self._routes[pair]
