"""What each rank of a probe does; see :mod:`tokenring_xdit.workers.birth`."""

from __future__ import annotations

from tokenring_xdit.lab.probe.station import Station, join_world
from tokenring_xdit.workers.mailbox import Mailbox

__all__ = ["main"]


def main(mailbox: Mailbox) -> None:
    """Carry out orders until the command is gone, or one of them fails."""
    station = Station(join_world())
    while True:
        mailbox.answer(station.carry_out(mailbox.next()))
