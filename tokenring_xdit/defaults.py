"""Defaults of commands, configs and calls."""

from __future__ import annotations

__all__ = ["DEFAULT_SCHEDULE", "KEPT_CHATS", "LARGEST_SIDE", "MAX_NEW_TOKENS"]

DEFAULT_SCHEDULE = "token_ring"
"""What TokenRing ranks exchange, and when; inside nodes too."""

LARGEST_SIDE = 4096
"""Pixels on a side that are taken by default: a square of them has 16 times the pixels of a common picture of 1024."""

KEPT_CHATS = 8
"""Chats whose keys an engine keeps."""

MAX_NEW_TOKENS = 256
"""Tokens that an answer may have."""
