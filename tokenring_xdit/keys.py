"""The key of a server, which clients have to say."""

from __future__ import annotations

from tokenring_xdit.errors import ConfigurationError

__all__ = ["KEY_VARIABLE", "checked_key"]

KEY_VARIABLE = "TOKENRING_API_KEY"
"""Environment variable: the key, which other users of the machine do not see there."""


def checked_key(said: str | None) -> str | None:
    """A key as clients can say it: without the line break that files end in.

    Args:
        said: In the variable or on the command line; ``None`` where nothing is.

    Raises:
        ConfigurationError: It is empty, so that anybody could say it, or nobody can, as no header carries it.
    """
    if said is not None and not said.strip():
        raise ConfigurationError(f"the API key is empty: say one, or leave {KEY_VARIABLE} out")
    if said is not None and not said.strip().isprintable():
        raise ConfigurationError("the API key has a line break or another character that is not printed: take another")
    return None if said is None else said.strip()
