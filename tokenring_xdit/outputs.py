"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenring_xdit.errors import OutputError

__all__ = ["cache_folder", "replacing", "write_whole"]


def cache_folder() -> Path:
    """Where this package keeps what it finds out on a machine, for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenring-xdit"


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A file in the same folder to write to, which takes the place of ``path`` at the end of the block.

    After an error it is removed, and what ``path`` held stays. It has the suffix of ``path``, by which some writers
    know the format, and the permissions of what it replaces. What is no plain file, such as ``/dev/stdout``, is written
    to directly.

    Args:
        path: Where the output goes; a link stays one.

    Raises:
        OutputError: It cannot be written, as the message says why.
    """
    final = Path(path)
    target = Path(os.path.realpath(final))
    if target.exists() and not target.is_file():
        with _explained(final):
            yield target
        return
    draft = target.with_name(f".tokenring-{secrets.token_hex(6)}{target.suffix}")
    try:
        with _explained(final):
            yield draft
            if target.exists():
                shutil.copymode(target, draft)
            draft.replace(target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def write_whole(path: Path | str, content: str | bytes) -> None:
    """Write a file; :func:`replacing` says how.

    Args:
        path: Where it goes.
        content: Text, which becomes UTF-8, or bytes.
    """
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error
