"""What each rank of a sweep does; see :mod:`tokenring_xdit.workers.birth`."""

from __future__ import annotations

from typing import Any, Protocol

from tokenring_xdit.bench.instruments import join_world
from tokenring_xdit.bench.measure import Bench
from tokenring_xdit.bench.orders import Check, Prepare, Prepared, Time, Trace
from tokenring_xdit.bench.pipeline import PipelineBench
from tokenring_xdit.bench.scene import SceneShape

__all__ = ["Orders", "main", "serve"]


class Orders(Protocol):
    """Where orders come from and answers go."""

    def next(self) -> Any:
        """Wait for the next order."""

    def answer(self, message: Any) -> None:
        """Tell whoever gives the orders."""


def main(mailbox: Orders) -> None:
    """Carry out orders until the command is gone, or one of them fails."""
    serve(mailbox)


def serve(mailbox: Orders, store: Any = None) -> None:
    """Carry out orders.

    Args:
        mailbox: Where they come from and answers go; an order ``None`` ends it.
        store: Where the ranks meet; ``None`` is what the environment says.
    """
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
