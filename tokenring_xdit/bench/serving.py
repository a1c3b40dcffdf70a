"""Runs what :mod:`tokenring_xdit.bench.service` says: servers as users start them, and clients that wait for nobody."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenring_xdit.bench.plan import Case
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.bench.service import Arrival, ServiceShape
from tokenring_xdit.errors import LaunchError
from tokenring_xdit.keys import KEY_VARIABLE
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.sizes import PictureSize

__all__ = ["compare_services"]

_PATH = "/v1/images/generations"

_STEP, _DATA = b": step ", b"data: "

_PAUSE = 0.1

_GRACE = 30.0
"""Seconds for a server to end."""

_TAIL = 2000
"""Characters of the log of a failed server that the message quotes."""


@dataclass(frozen=True)
class _Answered:
    """A request that was served.

    Attributes:
        came: When its client came, in seconds on the monotonic clock.
        first_step: When its first step was over.
        ended: When it was served.
        picture: What was drawn.
    """

    came: float
    first_step: float
    ended: float
    picture: Image.Image


def compare_services(
    shape: ServiceShape,
    cases: Sequence[Case],
    *,
    seed: int,
    warmup: int,
    rounds: int,
    timeout: float,
    on_step: Callable[[str], None],
) -> dict[Case, dict[str, Any] | LaunchError]:
    """Measure strategies by turns, each in a server of its own.

    Args:
        shape: What is asked of them.
        cases: The strategies.
        seed: Seed of the arrival times.
        warmup: Rounds before the first one that counts.
        rounds: Rounds that count.
        timeout: Seconds that one answer, or loading, may take.
        on_step: Told what is about to be done.

    Returns:
        Fields of the records, or how a case failed.
    """
    on_step(f"generating {shape.size} in one process")
    expected = _drawn_alone(shape, timeout)
    found: dict[Case, dict[str, Any] | LaunchError] = {}
    times: dict[Case, list[list[_Answered]]] = {case: [] for case in cases}
    with ExitStack() as stack:
        servers: dict[Case, _MeasuredServer] = {}

        def attempt(case: Case, turn: int, arrivals: Sequence[Arrival]) -> list[_Answered]:
            on_step(f"turn {turn} of {warmup + rounds}: {case.strategy}")
            try:
                if case not in servers:
                    servers[case] = stack.enter_context(_MeasuredServer(case, timeout))
                return servers[case].answered(arrivals)
            except LaunchError as error:
                found[case] = error
                if case in servers:
                    servers[case].close()  # what it still does would count in the turns of others
                return []

        for case in cases:
            drawn = attempt(case, 0, [Arrival(0.0, size, number) for number, size in enumerate(shape.sizes)])
            if drawn:
                errors = [np.abs(_pixels(a.picture) - b).max() for a, b in zip(drawn, expected, strict=True)]
                found[case] = {"max_error": float(max(errors)), "checked_rows": sum(b.size // 3 for b in expected)}
        for turn in range(1, warmup + rounds + 1):
            left = [case for case in cases if not isinstance(found[case], LaunchError)]
            for case in random.Random(f"{seed} {turn}").sample(left, len(left)):
                answers = attempt(case, turn, shape.arrivals(seed, turn))
                if turn > warmup and answers:
                    times[case].append(answers)
    return {
        case: figures if isinstance(figures, LaunchError) else {**figures, **_figures(times[case])}
        for case, figures in found.items()
    }


def _figures(rounds: Sequence[Sequence[_Answered]]) -> dict[str, Spread]:
    """Of each round, from when a client came, and not from when it was its turn."""
    latencies = [[each.ended - each.came for each in answers] for answers in rounds]
    first = [[each.first_step - each.came for each in answers] for answers in rounds]
    whole = [max(each.ended for each in answers) - min(each.came for each in answers) for answers in rounds]
    return {
        "seconds": Spread.of([statistics.median(each) for each in latencies]),
        "p95_seconds": Spread.of([float(np.quantile(each, 0.95)) for each in latencies]),
        "first_step_seconds": Spread.of([statistics.median(each) for each in first]),
        "per_request_seconds": Spread.of([a / len(b) for a, b in zip(whole, rounds, strict=True)]),
    }


def _drawn_alone(shape: ServiceShape, timeout: float) -> list[np.ndarray]:
    """The first picture of each size as the pipeline alone draws it, ``[H, W, 3]`` in 0 to 1."""
    with Engine(shape.model, dtype=shape.dtype, timeout=timeout) as engine:
        drawn = []
        for number, size in enumerate(shape.sizes):
            said = PictureSize.parse(size)
            (picture,) = engine.generate(
                shape.prompt,
                width=said.width,
                height=said.height,
                steps=shape.steps,
                guidance=shape.guidance,
                seed=number,
                progress=False,
            )
            drawn.append(_pixels(picture))
        return drawn


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32) / 255


class _MeasuredServer:
    """``tokenring-xdit serve`` with one strategy, from when it is ready.

    Args:
        case: Which.
        timeout: Seconds that loading, or one answer, may take.

    Raises:
        LaunchError: It is not ready by then.
    """

    def __init__(self, case: Case, timeout: float) -> None:
        shape = case.shape
        assert isinstance(shape, ServiceShape)
        self._shape, self._timeout = shape, timeout
        dims = case.strategy.dims(shape.ranks)
        self._folder = tempfile.TemporaryDirectory(prefix="tokenring-service-")
        self._log, self._said = (Path(self._folder.name) / name for name in ("log", "said"))
        self._port: int | None = None
        words = [
            "serve",
            shape.model,
            "forecasts=none",
            f"tokenring_degree={dims.tokenring}",
            f"ulysses_degree={dims.ulysses}",
        ]
        more = [f"schedule={dims.schedule}", f"dtype={shape.dtype}", "--port", "0"]
        line = ["--max-waiting", str(max(shape.requests, len(shape.sizes))), "--timeout", str(timeout)]
        with self._log.open("w") as log, self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tokenring_xdit.cli", *words, *more, *line],
                stdout=said,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # Clients here have no key, and nobody else reaches a measured server.
                env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
            )

    def __enter__(self) -> _MeasuredServer:
        try:
            deadline = time.monotonic() + self._timeout
            while not self._ready(max(_PAUSE, deadline - time.monotonic())):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LaunchError(f"the server did not get ready: {self._tail()}")
                time.sleep(_PAUSE)
        except BaseException:  # Ctrl-C too: nobody else ends it yet
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; more than once is no mistake."""
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def answered(self, arrivals: Sequence[Arrival]) -> list[_Answered]:
        """Have clients come when they come, and wait for all of them.

        Raises:
            LaunchError: One was not served.
        """
        began = time.monotonic()
        heard: dict[int, _Answered | Exception] = {}

        def ask(number: int, arrival: Arrival) -> None:
            try:
                heard[number] = self._ask(arrival, began + arrival.seconds)
            except (OSError, http.client.HTTPException, ValueError, LaunchError) as error:
                heard[number] = error

        clients = []
        for number, arrival in enumerate(arrivals):
            time.sleep(max(0.0, began + arrival.seconds - time.monotonic()))
            clients.append(threading.Thread(target=ask, args=(number, arrival), daemon=True))
            clients[-1].start()
        for client in clients:
            client.join()
        answers = []
        for number in range(len(arrivals)):
            answer = heard[number]
            if isinstance(answer, Exception):
                raise LaunchError(f"a request was not served: {answer}; the server says: {self._tail()}") from answer
            answers.append(answer)
        return answers

    def _ask(self, arrival: Arrival, came: float) -> _Answered:
        shape = self._shape
        body = {"prompt": shape.prompt, "size": arrival.size, "steps": shape.steps, "guidance": shape.guidance}
        content = json.dumps({**body, "seed": arrival.seed, "stream": True})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            connection.request("POST", _PATH, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise LaunchError(answer.read().decode())
            first: float | None = None
            for line in answer:
                if line.startswith(_STEP) and first is None:
                    first = time.monotonic()
                if line.startswith(_DATA):
                    said = json.loads(line.removeprefix(_DATA))
                    if "b64_json" not in said or first is None:
                        raise LaunchError(str(said.get("error", said)))
                    ended = time.monotonic()
                    picture = Image.open(io.BytesIO(base64.b64decode(said["b64_json"])))
                    return _Answered(came, first, ended, picture)
            raise LaunchError("the answer ended before there was a picture")
        finally:
            connection.close()

    def _ready(self, seconds: float) -> bool:
        if self._port is None:  # which it says before it loads
            port = re.search(r":(\d+)\n", self._said.read_text())
            if port is None:
                return False
            self._port = int(port[1])
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-_TAIL:].strip() or "nothing"
