"""Fields of a request, which come as JSON or, as from OpenAI's clients where there are files, as a form."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tokenring_xdit.messages import named
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["read_fields"]

_MOST_FIELDS = 64


async def read_fields(request: Request) -> tuple[dict[str, Any], bool]:
    """The fields of a body, and whether it is a form, whose values are text.

    Raises:
        RefusedError: It is neither, or has files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request), True
    if kind != "application/json":
        raise RefusedError(
            "the body has to be a JSON object, with 'Content-Type: application/json', or a form of the type "
            "multipart/form-data"
        )
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RefusedError("the body has to be a JSON object, with 'Content-Type: application/json'")
    return fields, False


async def _form(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            for name, value in form.multi_items():
                field = named(name)
                if isinstance(value, UploadFile):
                    raise RefusedError(f"{field}: is a file, and this model starts from none", field)
                if name in fields:
                    raise RefusedError(f"{field}: is said twice", field)
                fields[name] = value
    except HTTPException as error:  # what is no form
        raise RefusedError(f"the form cannot be read: {error.detail}") from error
    return fields
