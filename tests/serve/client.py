"""Plain HTTP, as any client speaks it."""

from __future__ import annotations

import base64
import http.client
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["Answer", "Client", "pixels"]

GENERATIONS = "/v1/images/generations"


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """OpenAI's error object."""
        (name,) = self.json
        assert name == "error"
        assert self.json["error"].keys() == {"message", "type", "param", "code"}
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Of a stream."""
        blocks = self.body.decode().split("\n\n")
        return [json.loads(b.partition("data: ")[2]) for b in blocks if b.startswith("event: ")]


@dataclass(frozen=True)
class Client:
    """Speaks to one server."""

    port: int
    key: str | None = None

    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPConnection:
        """Send a request, and wait for nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        said = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        if body is not None:
            said["Content-Type"] = "application/json"
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {**said, **(headers or {})})
        return connection

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request, and wait for the whole answer."""
        return self.answer(self.open(method, path, body, headers))

    @staticmethod
    def answer(connection: http.client.HTTPConnection) -> Answer:
        """Wait for the answer."""
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def draw(self, **body: Any) -> Answer:
        """Ask for a picture."""
        return self.ask("POST", GENERATIONS, {"prompt": "a red circle", **body})

    def begin(self, name: str, **body: Any) -> http.client.HTTPConnection:
        """Ask for a picture under a name, and wait for nothing."""
        return self.open("POST", GENERATIONS, {"prompt": "a red circle", **body}, {"X-Request-Id": name})

    def status(self, name: str) -> Any:
        """How far a request is; ``None`` before it was taken."""
        found = self.ask("GET", f"/v1/requests/{name}")
        return found.json if found.status == 200 else None

    def figures(self) -> dict[str, float]:
        """What ``/metrics`` says."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


def pixels(text: str) -> np.ndarray:
    """A picture in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
