"""Fixtures of the launch scripts' tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.scripts.hosts import Host, two_hosts


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts, for tests of the marker ``netns``."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    with two_hosts() as both:
        yield both
