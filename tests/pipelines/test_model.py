from __future__ import annotations

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.model import PictureSize


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ("96x64", (96, 64)), ("1024X768", (1024, 768))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert PictureSize.parse(text) == PictureSize(*size)


@pytest.mark.parametrize("text", ["", "x", "64x", "x64", "-8", "64x64x64", "0", "6.5"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a number of pixels nor"):
        PictureSize.parse(text)
