"""Clients that are slow, silent or too many, by real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from tests.serve.made_up import PATIENCE, until  # noqa: E402
from tokenring_xdit.serve import connections  # noqa: E402
from tokenring_xdit.serve.connections import BoundedConnection, drop_unread  # noqa: E402
from tokenring_xdit.serve.guard import Guard  # noqa: E402

SECONDS = 0.5

MOST = 4

PIECE, PIECES = 2**20, 64

HEAD = b"POST /length HTTP/1.1\r\nHost: localhost\r\n"
BODY = HEAD + b"Content-Length: 100\r\n\r\n" + b"a" * 50


class Quick(BoundedConnection):
    """With limits for a test."""

    most = MOST
    head_seconds = SECONDS
    last_seconds = SECONDS


class Answers:
    """An application: says how long a body is, answers before there is one, at length, or once it is told to."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["path"] == "/wait":
            await asyncio.wait_for(self.told.wait(), PATIENCE)
        content, more = b"", scope["path"] == "/length"
        while more:
            message = await receive()
            assert message["type"] == "http.request"  # nobody hears who answers a client that has gone
            content += message.get("body", b"")
            more = message.get("more_body", False)
        said = [b"a" * PIECE] * PIECES if scope["path"] == "/large" else [str(len(content)).encode()]
        length = (b"content-length", str(sum(map(len, said))).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for number, piece in enumerate(said, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(said)})


class Server:
    """A server that runs."""

    def __init__(self, port: int, uvicorn_server: Any, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._answers, self._loop = uvicorn_server, answers, loop
        self.port, self.refused = port, list[tuple[str, str]]()

    @property
    def open(self) -> int:
        """Connections."""
        return len(self._server.server_state.connections)

    def tell(self) -> None:
        """Have those answered who wait."""
        self._loop.call_soon_threadsafe(self._answers.told.set)

    def connect(self, said: bytes = b"", receives: int | None = None) -> socket.socket:
        """A client, which says something."""
        client = socket.socket()
        client.settimeout(PATIENCE)
        if receives is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        client.connect(("127.0.0.1", self.port))
        client.sendall(said)
        return client


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


@contextmanager
def running(body_seconds: float = SECONDS) -> Iterator[Server]:
    found: list[Server] = []
    started = threading.Event()

    async def run(listening: socket.socket) -> None:
        answers = Answers()
        refused: list[tuple[str, str]] = []
        app = Guard(answers, None, 2**21, on_refused=lambda *said: refused.append(said), body_seconds=body_seconds)
        config = uvicorn.Config(app, http=Quick, ws="none", lifespan="off", timeout_graceful_shutdown=60)
        each = uvicorn.Server(config)
        found.append(Server(listening.getsockname()[1], each, answers, asyncio.get_running_loop()))
        found[0].refused = refused
        started.set()
        await each.serve([listening])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        drop_unread(listening)
        thread = threading.Thread(target=lambda: asyncio.run(run(listening)))
        thread.start()
        assert started.wait(PATIENCE)
        try:
            yield found[0]
        finally:
            found[0].tell()
            found[0]._server.should_exit = True
            thread.join(PATIENCE)
    assert not thread.is_alive()


def heard(client: socket.socket) -> bytes:
    """All that is said until the connection is closed."""
    with client:
        return b"".join(iter(lambda: client.recv(2**16), b""))


def refusal(said: bytes) -> tuple[int, str]:
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def dribbled(client: socket.socket) -> None:
    """Send a byte now and then, for as long as somebody listens."""
    deadline = time.monotonic() + PATIENCE
    with client:
        while time.monotonic() < deadline:
            try:
                client.sendall(b"a")
            except OSError:
                return
            time.sleep(SECONDS / 10)
    raise AssertionError("the connection stayed open")


def test_who_says_nothing_is_hung_up_on(server: Server) -> None:
    assert heard(server.connect()) == b""
    until(lambda: server.open == 0)


def test_half_a_head_is_refused_also_byte_by_byte(server: Server) -> None:
    assert refusal(heard(server.connect(HEAD))) == (408, "too_slow")
    dribbled(server.connect(HEAD + b"X-Long: "))
    until(lambda: server.open == 0)


def test_half_a_body_is_refused_also_byte_by_byte(server: Server) -> None:
    assert refusal(heard(server.connect(BODY))) == (408, "too_slow")
    chunked = server.connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n100000\r\n")
    dribbled(chunked)
    until(lambda: server.open == 0)
    assert server.refused == [("POST", "/length")] * 2


def test_who_leaves_in_the_middle_of_a_body_is_no_failure(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.connect(BODY).close()
    until(lambda: server.refused)
    until(lambda: server.open == 0)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_large_body_has_more_time(server: Server) -> None:
    client = server.connect(HEAD + b"Connection: close\r\nContent-Length: 1048576\r\n\r\n")
    for _ in range(8):  # faster than the rate that is asked for, and longer than a small body may take
        client.sendall(b"a" * 2**17)
        time.sleep(SECONDS / 4)
    assert heard(client).endswith(b"\r\n\r\n1048576")


def test_who_was_answered_cannot_go_on_forever_with_the_body(server: Server) -> None:
    client = server.connect(BODY.replace(b"/length", b"/at-once").replace(b"100", b"1000000"))
    assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    dribbled(client)


NO_CHUNK = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n"


@pytest.mark.parametrize("said", [b"\x16\x03\x01 hello", b"GET /at-once\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", NO_CHUNK])
def test_what_is_no_http_is_refused_in_words_that_programs_read(server: Server, said: bytes) -> None:
    answer = heard(server.connect(said))
    assert refusal(answer) == (400, "no_http")
    assert answer.count(b"HTTP/1.1") == 1 + answer.count(b"of HTTP/1.1")


def test_what_is_no_http_after_an_answer_is_no_failure(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    first, rest = NO_CHUNK.replace(b"/length", b"/at-once").split(b"zz", 1)
    client = server.connect(first)
    assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    client.sendall(b"zz" + rest)
    heard(client)
    until(lambda: server.open == 0)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_who_offers_another_protocol_is_answered_in_this_one(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for protocol in (b"h2c", b"websocket"):
        said = HEAD.replace(b"POST /length", b"GET /at-once") + b"Connection: Upgrade, close\r\nUpgrade: " + protocol
        assert heard(server.connect(said + b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_who_waits_for_an_answer_is_not_hurried_and_may_ask_again(server: Server) -> None:
    client = server.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(3 * SECONDS)
    server.tell()
    assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    client.sendall(b"GET /at-once HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"HTTP/1.1 200" in heard(client)


def test_the_oldest_that_asks_nothing_makes_room(server: Server) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(server.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        until(lambda: server.open == 1)
        silent = []
        for number in range(3 * MOST):
            silent.append(stack.enter_context(server.connect()))
            until(lambda number=number: server.open == min(MOST, number + 2))  # type: ignore[misc]
        last = server.connect(b"GET /at-once HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert heard(last).startswith(b"HTTP/1.1 200")
        assert silent[0].recv(1) == b""
        server.tell()
        assert busy.recv(2**16).startswith(b"HTTP/1.1 200")


def test_one_more_than_may_be_served_is_refused(server: Server) -> None:
    with ExitStack() as stack:
        for number in range(MOST):
            stack.enter_context(server.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            until(lambda number=number: server.open == number + 1)  # type: ignore[misc]
        assert refusal(heard(server.connect())) == (503, "too_many_connections")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such limit")
def test_who_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_UNREAD_SECONDS", 1)
    with running() as server, server.connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n", 4096):
        until(lambda: server.open == 1)
        until(lambda: server.open == 0)


@pytest.mark.parametrize("said", [BODY, b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["body", "answer"])
def test_who_is_slow_when_the_server_ends_is_no_failure(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with running(PATIENCE) as server:
        client = server.connect(said, 4096)
        until(lambda: server.open == 1)
        time.sleep(SECONDS)  # until the server waits for the rest, or for somebody who reads
    client.close()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
