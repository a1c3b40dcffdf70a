"""Files that a command will write, tried before it works for them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError

__all__ = ["refuse_unwritable"]


def refuse_unwritable(path: Path, said: str, *, keep: bool = True) -> None:
    """Make the folder of a file and try to write there; what was there stays.

    Args:
        path: The file.
        said: What the user wrote, for the message.
        keep: Whether folders that are made stay.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    missing = [folder for folder in path.parents if not os.path.exists(folder)]  # whatever they are called
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        if path.is_file() or not path.exists():  # then another file takes its place
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigurationError(f"{said} cannot be written: {error.strerror or error} ({path.parent})") from error
    finally:
        with contextlib.suppress(OSError):  # somebody else may have put something there
            for folder in () if keep else missing:
                folder.rmdir()
