"""What each rank of a probe runs: ``python -m tokenring_xdit.probe.rank ORDERS ANSWERS``, two file descriptors."""

from __future__ import annotations

import os
import sys

from tokenring_xdit.bench.orders import Failure
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.pipelines.engine_rank import Mailbox

__all__ = ["main"]


def main(orders: int, answers: int) -> None:
    """Carry out orders until the command is gone, or one of them fails."""
    mailbox = Mailbox(orders, answers)
    try:
        from tokenring_xdit.probe.station import Station, join_world

        station = Station(join_world())
        while True:
            mailbox.answer(station.carry_out(mailbox.next()))
    except Exception as error:
        text = str(error) if isinstance(error, TokenRingError) else f"{type(error).__name__}: {error}"
        mailbox.answer(Failure(text))
        os._exit(1)  # without waiting for threads of a broken process group


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
