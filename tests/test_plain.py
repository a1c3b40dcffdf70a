"""Plain data as bytes: what goes in comes out, what is none is refused, and nothing that is read runs."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.plain import from_bytes, to_bytes

SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(PLAIN)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert repr(from_bytes(to_bytes(value))) == repr(value)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    back = from_bytes(to_bytes({"it": (array,)}))["it"][0]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert back.shape == shape
    assert back.flags.writeable


def test_states_of_random_generators() -> None:
    states = {"numpy": np.random.get_state(), "python": random.getstate()}
    back = from_bytes(to_bytes(states))
    assert back["python"] == states["python"]
    random.setstate(back["python"])
    np.random.set_state(back["numpy"])
    first = np.random.random(), random.random()
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    assert (np.random.random(), random.random()) == first


@pytest.mark.parametrize("value", [lambda: 0, object(), {1, 2}, [ValueError("no")], np.array([object()])])
def test_what_is_no_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="is no plain data, and cannot be sent"):
        to_bytes(value)


class Strike:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_what_nobody_wrote_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    array = b'{"array": ["O", [1], "AAAAAAAAAAA="]}'
    for data in (*(pickle.dumps(Strike(tmp_path / "struck"), p) for p in (0, 4)), b"", b"{}", b'{"object": []}', array):
        with pytest.raises(ValueError, match="this is no plain data: "):
            from_bytes(data)
    assert not (tmp_path / "struck").exists()


PICKLES = {"tokenring_xdit/workers/pipes.py"}
"""Pipes between a process and ranks that it started itself."""


def test_nothing_else_is_pickled() -> None:
    collectives = ("gather_object", "broadcast_object_list", "scatter_object_list", "_object(")
    words = ("import pickle", "from pickle", *collectives)
    root = Path(__file__).parents[1]
    found = {
        str(path.relative_to(root))
        for path in (root / "tokenring_xdit").rglob("*.py")
        if any(word in path.read_text() for word in words)
    }
    assert found == PICKLES
