"""What a client gets of a failure: OpenAI's error object, and an HTTP status."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.errors import CancelledError, LaunchError, OutputError, TokenRingError

__all__ = ["GIVEN_UP", "HttpProblem", "RefusedError", "UnavailableError", "problem_of"]

GIVEN_UP = 499
"""For a client that has cancelled the request: after a 409 OpenAI's client would ask again."""

_FIELDS = {
    "width": "size",
    "height": "size",
    **{name: name for name in ("frames", "guidance", "negative_prompt", "prompt", "seed", "size", "steps", "strength")},
    **dict.fromkeys(("image", "control_image"), "image"),
    **dict.fromkeys(("mask_image", "control_mask"), "mask"),
}
"""Words that messages about a request begin with, and the fields that they are about."""


class RefusedError(TokenRingError):
    """A request that is not carried out.

    Attributes:
        param: The field that is at fault.
        status: HTTP status.
        code: A word for programs.
    """

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class UnavailableError(TokenRingError):
    """The server cannot take this request now.

    Attributes:
        status: 429 where the queue is full, 503 where there is no engine.
        code: A word for programs.
        retry_after: Seconds after which it may, where that is predicted.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


@dataclass(frozen=True)
class HttpProblem:
    """An answer to a client.

    Attributes:
        status: HTTP status.
        message: A sentence.
        kind: OpenAI's ``type``.
        param: The field that is at fault.
        code: A word for programs.
        retry_after: Seconds.
    """

    status: int
    message: str
    kind: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the body."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def problem_of(error: Exception) -> HttpProblem:
    """The message of an error for clients. Files of this machine are named in its log only."""
    if isinstance(error, UnavailableError):
        return HttpProblem(error.status, str(error), "server_error", None, error.code, error.retry_after)
    if isinstance(error, RefusedError):
        return HttpProblem(error.status, str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, CancelledError):
        return HttpProblem(GIVEN_UP, str(error), "cancelled", None, "cancelled")
    if isinstance(error, LaunchError):
        return HttpProblem(500, str(error).partition("\n(")[0], "server_error", None, "rank_failed")
    if isinstance(error, OutputError):
        words = "what was made could not be written, or is more than may be kept; the server's log says why"
        return HttpProblem(500, words, "server_error", None, "not_written")
    if isinstance(error, TokenRingError):
        param = _FIELDS.get(re.split("[ :]", str(error), maxsplit=1)[0])
        return HttpProblem(400, str(error), "invalid_request_error", param)
    return HttpProblem(500, "the server failed; its log says why", "server_error", None, "internal_error")
