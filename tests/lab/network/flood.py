"""One end of a transfer of a fixed size over one connection, as gloo uses it; started inside a namespace.

``python flood.py ADDRESS SEND RECEIVE [listen]``: bytes to send and to receive at the same time. Prints
the seconds until all had been received.
"""

import socket
import sys
import threading
import time

PORT = 5201


def main(address: str, send: int, receive: int, listen: bool) -> None:
    if listen:
        with socket.create_server((address, PORT)) as server:
            print("listening", flush=True)
            connection, _ = server.accept()
    else:
        connection = socket.create_connection((address, PORT))
    start = time.perf_counter()
    with connection:
        sender = threading.Thread(target=connection.sendall, args=(bytes(send),))
        sender.start()
        left = receive
        while left:
            got = len(connection.recv(min(left, 1 << 16)))
            if not got:
                sys.exit("the connection closed early")
            left -= got
        seconds = time.perf_counter() - start
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until the other side is through as well
    print(seconds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["listen"])
