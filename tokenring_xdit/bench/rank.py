"""What each rank of a sweep runs: ``python -m tokenring_xdit.bench.rank ORDERS ANSWERS``, two file descriptors."""

from __future__ import annotations

import os
import sys
from typing import Any

from tokenring_xdit.bench.orders import Check, Failure, Prepare, Prepared, Time, Trace
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.pipelines.engine_rank import Mailbox

__all__ = ["main", "serve"]


def main(orders: int, answers: int) -> None:
    """Carry out orders until the command is gone, or one of them fails."""
    mailbox = Mailbox(orders, answers)
    try:
        serve(mailbox)
    except Exception as error:
        text = str(error) if isinstance(error, TokenRingError) else f"{type(error).__name__}: {error}"
        mailbox.answer(Failure(text))
        os._exit(1)  # without waiting for threads of a broken process group


def serve(mailbox: Any, store: Any = None) -> None:
    """Carry out orders.

    Args:
        mailbox: Where they come from and answers go; an order ``None`` ends it.
        store: Where the ranks meet; ``None`` is what the environment says.
    """
    from tokenring_xdit.bench.instruments import join_world
    from tokenring_xdit.bench.measure import Bench
    from tokenring_xdit.bench.pipeline import PipelineBench
    from tokenring_xdit.bench.scene import SceneShape

    device = join_world(store)
    bench: Bench | PipelineBench | None = None
    while True:
        order = mailbox.next()
        if order is None:
            return
        if isinstance(order, Prepare):
            bench = None  # lets the tensors before go
            kind = PipelineBench if isinstance(order.shape, SceneShape) else Bench
            bench = kind(order, device)
            mailbox.answer(Prepared(bench.kernel, str(device), bench.threads))
        elif isinstance(order, Check):
            assert bench is not None
            mailbox.answer(bench.check(order.strategy))
        elif isinstance(order, Time):
            assert bench is not None
            mailbox.answer(bench.time(order.strategy))
        elif isinstance(order, Trace):
            assert bench is not None
            mailbox.answer(bench.trace(order.strategy))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
