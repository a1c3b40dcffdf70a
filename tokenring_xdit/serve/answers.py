"""Errors as HTTP answers."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from tokenring_xdit.serve.errors import problem_of

__all__ = ["answered"]


def answered(error: Exception, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed.

    Args:
        error: Why.
        headers: Beside those that the error has.
    """
    problem = problem_of(error)
    return JSONResponse(problem.body, problem.status, {**problem.headers, **(headers or {})})
