"""Messages between ranks in a proof: what both sides say of each, and which are over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import NamedTuple

from tokenring_xdit.errors import VerificationError
from tokenring_xdit.schedule.lower.areas import Content
from tokenring_xdit.schedule.lower.program import SlotForm

__all__ = ["Route", "RouteTransfer", "Side", "Transfers"]

Route = tuple[int, int, str]
"""Source, destination, channel."""


class RouteTransfer(NamedTuple):
    """A message by its route, and which one it is there."""

    route: Route
    number: int


class Side(NamedTuple):
    """What one side of a transfer says of it."""

    action: int
    form: SlotForm
    heads: int
    tokens: int
    size: int


class Transfers:
    """All transfers of a set of programs, as ranks come to them.

    Args:
        in_order: Whether the transport works off the exchanges of a channel one after the other.
        fail: The error for a rank, one of its actions, and what is wrong there.
    """

    def __init__(self, in_order: bool, fail: Callable[[int, int | None, str], VerificationError]) -> None:
        self._in_order, self._fail = in_order, fail
        self._sent: dict[Route, list[tuple[Side, Content]]] = defaultdict(list)
        self._expected: dict[Route, list[Side]] = defaultdict(list)
        # On a transport that works in order, of each rank and channel: its exchanges, and how many of them are over.
        self._queues: dict[tuple[int, str], list[list[RouteTransfer]]] = defaultdict(list)
        self._done: dict[tuple[int, str], int] = defaultdict(int)
        self._places: dict[tuple[int, RouteTransfer], tuple[tuple[int, str], int]] = {}

    def expect(self, route: Route, side: Side) -> RouteTransfer:
        """The destination has posted its side.

        Raises:
            VerificationError: The source says otherwise.
        """
        self._expected[route].append(side)
        return self._matched(RouteTransfer(route, len(self._expected[route]) - 1))

    def send(self, route: Route, side: Side, content: Content) -> RouteTransfer:
        """The source has posted its side.

        Raises:
            VerificationError: The destination says otherwise.
        """
        self._sent[route].append((side, content))
        return self._matched(RouteTransfer(route, len(self._sent[route]) - 1))

    def queue(self, rank: int, exchange: Iterable[RouteTransfer]) -> None:
        """A rank has posted an exchange: its transfers are one each channel, behind those that it posted before."""
        of_channel: dict[str, list[RouteTransfer]] = defaultdict(list)
        for transfer in exchange:
            of_channel[transfer.route[2]].append(transfer)
        for channel, transfers in of_channel.items():
            key = rank, channel
            self._places.update({(rank, t): (key, len(self._queues[key])) for t in transfers})
            self._queues[key].append(transfers)

    def content(self, transfer: RouteTransfer) -> Content:
        """What was sent."""
        return self._sent[transfer.route][transfer.number][1]

    def is_over(self, rank: int, transfer: RouteTransfer) -> bool:
        """Whether a transfer is over for one of its sides."""
        if self._in_order:
            key, place = self._places[rank, transfer]
            return place < self._done[key]
        return transfer.number < min(len(self._sent[transfer.route]), len(self._expected[transfer.route]))

    def work_off(self) -> bool:
        """End the first exchanges of channels whose other sides are first, too, or over; whether there were any."""
        if not self._in_order:
            return False
        over = [
            key
            for key, exchanges in self._queues.items()
            if self._done[key] < len(exchanges) and all(self._has_begun(key[0], t) for t in exchanges[self._done[key]])
        ]
        for key in over:
            self._done[key] += 1
        return bool(over)

    def refuse_unmatched(self) -> None:
        """Refuse what one side only has posted, once all ranks are at their ends.

        Raises:
            VerificationError: There is something.
        """
        for route in sorted({*self._sent, *self._expected}):
            for sent, expected in zip_longest(self._sent[route], self._expected[route]):
                if expected is None:
                    raise self._fail(route[0], sent[0].action, f"sends rank {route[1]} what that never receives")
                if sent is None:
                    raise self._fail(route[1], expected.action, f"would wait for ever for rank {route[0]}")

    def _matched(self, transfer: RouteTransfer) -> RouteTransfer:
        """Compare both sides of a transfer, once both are known."""
        route, number = transfer
        if number >= min(len(self._sent[route]), len(self._expected[route])):
            return transfer
        sent, expected = self._sent[route][number][0], self._expected[route][number]
        if sent[1:] != expected[1:]:
            problem = (
                f"expects {expected.form.value} of {expected.heads} heads, {expected.tokens} tokens and "
                f"{expected.size} bytes from rank {route[0]} on channel {route[2]}, which sends {sent.form.value} of "
                f"{sent.heads}, {sent.tokens} and {sent.size}"
            )
            raise self._fail(route[1], expected.action, problem)
        return transfer

    def _has_begun(self, rank: int, transfer: RouteTransfer) -> bool:
        """Whether the other side of a transfer has come to it."""
        source, destination, _ = transfer.route
        place = self._places.get((destination if rank == source else source, transfer))
        return place is not None and place[1] <= self._done[place[0]]
