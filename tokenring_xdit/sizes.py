"""Sizes of pictures and videos as users write them: width x height, in every command, config and sweep."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown

__all__ = ["PictureSize", "nearest_multiple"]

_LARGEST = 999_999_999
"""Python refuses to read, or to write, numbers of thousands of digits."""

_SIDE = "0*([1-9][0-9]{0,8})"
_WRITTEN = re.compile(f"{_SIDE}(?:x{_SIDE})?")


@dataclass(frozen=True)
class PictureSize:
    """Size of a picture in pixels.

    Attributes:
        width: Pixels of a row.
        height: Rows.
    """

    width: int
    height: int

    @classmethod
    def parse(cls, value: object) -> PictureSize:
        """Read ``64``, a square, or ``96x64``: 96 wide and 64 high.

        Args:
            value: A text, or the number that YAML makes of one.

        Raises:
            ConfigurationError: It is neither.
        """
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
            value = str(value)
        found = _WRITTEN.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise ConfigurationError(
                f"size {shown(value)} is neither a number of pixels nor WIDTHxHEIGHT, such as 1024 or 1280x720"
            )
        return cls(int(found[1]), int(found[2] or found[1]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def nearest_multiple(side: int, unit: int) -> int:
    """The multiple of ``unit`` pixels that is closest to a side, to propose instead; at least one unit."""
    return max(1, round(side / unit)) * unit
