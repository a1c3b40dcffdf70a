"""Fields of a request, which come as JSON or, as from OpenAI's clients where there are files, as a form."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tokenring_xdit.messages import named
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["read_fields", "read_files"]

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


async def read_files(
    request: Request, names: Collection[str], most: int
) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The fields of a form, whose values are text, and its files.

    Args:
        request: Request of the client.
        names: Names of the fields that are files.
        most: Files.

    Raises:
        RefusedError: It is no form, or has a file or a text where the other one is wanted.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RefusedError(
            "the body has to be a form of the type multipart/form-data, with the pictures as files: no URLs are fetched"
        )
    files: dict[str, list[bytes]] = {}
    fields = await _form(request, names, most, files)
    return fields, files


async def _form(
    request: Request,
    names: Collection[str] = (),
    most: int = 1,
    files: dict[str, list[bytes]] | None = None,
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form(max_files=most, max_fields=_MOST_FIELDS) as form:
            for name, value in form.multi_items():
                field = named(name)
                if isinstance(value, UploadFile) and files is not None and name in names:
                    files.setdefault(name, []).append(await value.read())
                    continue
                if isinstance(value, UploadFile):
                    which = f"which are sent as {' or '.join(names)}" if names else "and this model starts from none"
                    raise RefusedError(f"{field}: is a file, {which}", field)
                if name in names:
                    raise RefusedError(f"{field}: is text, and has to be a file: nothing is fetched or opened", field)
                if name in fields:
                    raise RefusedError(f"{field}: is said twice", field)
                fields[name] = value
    except HTTPException as error:  # what is no form
        raise RefusedError(f"the form cannot be read: {error.detail}") from error
    return fields
