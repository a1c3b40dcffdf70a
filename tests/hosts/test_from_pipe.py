"""``from_pipe`` with a transformer that is spread over ranks; :mod:`tests.hosts.test_combinations` calls what comes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import WanPipeline, WanVideoToVideoPipeline

from tests.support.small import small
from tokenring_xdit.hosts.diffusers.install import register


@pytest.mark.parametrize("kind", [WanPipeline, WanVideoToVideoPipeline])
def test_it_is_handed_on(kind: Any) -> None:
    register()
    pipe: Any = small("wan-t2v").make()
    model, whole = pipe.transformer, type(pipe.transformer)
    model.__class__ = type(whole.__name__, (whole,), {})
    model._tokenring_sharding = SimpleNamespace(kind=whole)
    assert kind.from_pipe(pipe).transformer is model
    other = small("wan-t2v").make().transformer
    assert kind.from_pipe(pipe, transformer=other).transformer is other
