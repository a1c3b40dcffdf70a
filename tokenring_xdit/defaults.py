"""What is taken where nothing is said, for commands, configs and calls alike."""

from __future__ import annotations

__all__ = ["DEFAULT_SCHEDULE", "LARGEST_SIDE"]

DEFAULT_SCHEDULE = "token_ring"
"""What TokenRing ranks exchange, and when; inside nodes too."""

LARGEST_SIDE = 4096
"""Pixels on a side that are taken by default: a square of them has 16 times the pixels of a common picture of 1024."""
