"""The names of transformers that language models stand on, one test each."""

from __future__ import annotations

import pytest

from tokenring_xdit.hosts.base import ReliedOn
from tokenring_xdit.hosts.transformers.upstream import RELIED_ON


@pytest.mark.parametrize("name", RELIED_ON, ids=lambda name: f"{name.module}.{name.path}")
def test_a_name_relied_on_exists(name: ReliedOn) -> None:
    assert name.problem() is None
