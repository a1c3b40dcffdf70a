"""What the self-test runs inside the namespace of each node: sends and receives over TCP, and counts.

Standard library only and started by its path, so that it is up at once. It reads one JSON order a line
from its input, ``{"source": ADDRESS, "to": [ADDRESS, ...], "open": T, "close": T}``, and answers each with
``{ADDRESS: BYTES}``, the payload that came from each node between the two times; times are seconds of
the clock that all processes of a machine share (``time.monotonic``).
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

__all__ = ["PORT", "TAIL", "main"]

PORT = 7471
"""TCP port; nothing else listens inside the namespaces."""

TAIL = 0.05
"""Seconds that senders go on after the time is up, so that nobody counts a wire that runs dry."""

_CHUNK = 1 << 18
_TICK = 0.02


def main() -> None:
    """Answer orders until the input ends."""
    with socket.create_server(("", PORT), backlog=64) as listener:
        listener.setblocking(False)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(_transfer(listener, **json.loads(line))), flush=True)


def _transfer(listener: socket.socket, source: str, to: list[str], open: float, close: float) -> dict[str, int]:  # noqa: A002
    """Send to all of ``to`` as fast as they take it, and take what comes, until it is over."""
    payload, scratch = bytes(_CHUNK), bytearray(_CHUNK)
    received: dict[str, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        for address in to:
            sender = socket.socket()
            sender.setblocking(False)
            sender.bind((source, 0))
            sender.connect_ex((address, PORT))
            selector.register(sender, selectors.EVENT_WRITE)
        try:
            while (now := time.monotonic()) < close + TAIL:
                for key, events in selector.select(_TICK):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection is listener:
                        accepted, peer = listener.accept()
                        accepted.setblocking(False)
                        received[peer[0]] = 0
                        selector.register(accepted, selectors.EVENT_READ, data=peer[0])
                        continue
                    try:
                        count = connection.send(payload) if events & selectors.EVENT_WRITE else connection.recv_into(scratch)
                    except ConnectionError:  # the other side was through a little earlier
                        count = 0
                    if not count:
                        selector.unregister(connection)
                        connection.close()
                    elif events & selectors.EVENT_READ and open <= now < close:
                        received[key.data] += count
        finally:
            for key in list(selector.get_map().values()):
                if key.fileobj is not listener:
                    key.fileobj.close()  # type: ignore[union-attr]
    return received


if __name__ == "__main__":
    main()
