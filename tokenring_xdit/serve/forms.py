"""Fields of a request, which come as JSON or, as from OpenAI's clients where there are files, as a form."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Collection
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tokenring_xdit.messages import named, shown
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["read_fields", "read_files"]

_MOST_FIELDS = 64

_TAIL = 16
"""Bytes at the end of a form that are looked at."""

_ENCODINGS = ("utf-8", "ascii")
"""Of texts in a form; of others Python knows some that decode to no text, or to another one."""


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
    _refuse_other_encodings(request)
    fields: dict[str, Any] = {}
    last = b""

    async def receive() -> Any:
        nonlocal last
        message = await request.receive()
        last = (last + message.get("body", b""))[-_TAIL:]
        return message

    try:
        async with Request(request.scope, receive).form(max_files=most, max_fields=_MOST_FIELDS) as form:
            if not last.rstrip().endswith(b"--"):  # whose last part would be left out
                raise RefusedError("the form cannot be read: its end is missing")
            for name, value in form.multi_items():
                field = named(name)
                if isinstance(value, UploadFile) and files is not None and name in names:
                    files.setdefault(name, []).append(await value.read())
                    continue
                if isinstance(value, UploadFile):
                    which = (
                        f"is a file; files are sent as {' or '.join(names)}"
                        if names
                        else ("is a file, and this model starts from none")
                    )
                    raise RefusedError(f"{field}: {which}", field)
                if name in names:
                    raise RefusedError(f"{field}: is text, and has to be a file: nothing is fetched or opened", field)
                if name in fields:
                    raise RefusedError(f"{field}: is said twice", field)
                fields[name] = value
    except HTTPException as error:  # what is no form
        raise RefusedError(f"the form cannot be read: {error.detail}") from error
    return fields


def _refuse_other_encodings(request: Request) -> None:
    _, options = parse_options_header(request.headers.get("content-type"))
    said = options.get(b"charset", b"utf-8").decode("latin-1")
    with contextlib.suppress(LookupError, ValueError):
        if codecs.lookup(said).name in _ENCODINGS:
            return
    raise RefusedError(f"the form cannot be read: its charset is {shown(said)}, and has to be UTF-8")
