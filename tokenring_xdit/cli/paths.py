"""Files that a command will write, tried before it works for them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError

__all__ = ["refuse_unwritable"]


def refuse_unwritable(path: Path, said: str) -> None:
    """Make the folder of a file and try to write there; what was there stays.

    Args:
        path: The file.
        said: What the user wrote, for the message.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        if path.is_file() or not path.exists():  # then another file takes its place
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigurationError(f"{said} cannot be written: {error}") from error
