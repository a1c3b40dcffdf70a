"""What the self-test runs inside the namespace of each node: sends and receives over TCP, and counts.

Standard library only and started by its path, so that it is up at once. It reads one JSON order a line,
``{"source": ADDRESS, "to": [ADDRESS, ...], "begin": T, "end": T}``, and answers each with
``{ADDRESS: BYTES}``: the payload that came from each node between the two times, which are seconds of
``time.monotonic``, a clock that all processes of a machine share.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

__all__ = ["main"]

_PORT = 7471  # nothing else listens inside the namespaces
_CHUNK = 1 << 18  # bytes
_TICK = 0.02  # seconds
_TAIL = 0.05  # seconds that senders go on after the end, so that no link runs dry before it


def main() -> None:
    """Answer orders until the input ends."""
    with socket.create_server(("", _PORT), backlog=256) as listener:
        listener.setblocking(False)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(_transfer(listener, **json.loads(line))), flush=True)


def _transfer(listener: socket.socket, source: str, to: list[str], begin: float, end: float) -> dict[str, int]:
    """Send to all of ``to`` as fast as they take it, and take what comes, until it is over."""
    payload, scratch = bytes(_CHUNK), bytearray(_CHUNK)
    received: dict[str, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        for address in to:
            sender = socket.socket()
            sender.setblocking(False)
            sender.bind((source, 0))
            sender.connect_ex((address, _PORT))
            selector.register(sender, selectors.EVENT_WRITE)
        while (now := time.monotonic()) < end + _TAIL:
            for key, events in selector.select(_TICK):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is listener:
                    accepted, peer = listener.accept()
                    accepted.setblocking(False)
                    selector.register(accepted, selectors.EVENT_READ, peer[0])
                    continue
                arriving = bool(events & selectors.EVENT_READ)
                try:
                    count = connection.recv_into(scratch) if arriving else connection.send(payload)
                except OSError:  # no way there, or the other side was through a little earlier
                    count = 0
                if not count:
                    selector.unregister(connection)
                    connection.close()
                elif arriving and begin <= now < end:
                    received[key.data] = received.get(key.data, 0) + count
        for key in list(selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.fileobj is not listener:
                key.fileobj.close()
    return received


if __name__ == "__main__":
    main()
