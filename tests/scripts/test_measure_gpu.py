"""``scripts/measure_gpu.py``, which needs a GPU: what it puts in the place of a transport is still one."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest

from tokenring_xdit.attention.transport.base import Transport

ROOT = Path(__file__).parents[2]


def test_its_transport_has_the_methods_of_one() -> None:
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("measure_gpu", ROOT / "scripts" / "measure_gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    methods = [name for name, _ in inspect.getmembers(Transport, inspect.isfunction) if not name.startswith("_")]
    assert methods
    for name in methods:
        asked, given = (inspect.signature(getattr(each, name)).parameters for each in (Transport, module.Alone))
        assert [*asked] == [*given], name
