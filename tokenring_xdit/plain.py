"""Plain data as bytes, for what ranks tell each other over sockets: reading it makes data, and runs nothing.

``None``, booleans, numbers, texts, bytes, NumPy arrays of numbers, and lists, tuples and dictionaries of all these come
out as they went in.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

__all__ = ["from_bytes", "to_bytes"]


def to_bytes(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        TypeError: It is, or holds, what is no plain data.
    """
    return json.dumps(_tagged(value)).encode()


def from_bytes(data: bytes) -> Any:
    """What :func:`to_bytes` was given.

    Raises:
        ValueError: It has made no such thing.
    """
    try:
        return _untagged(json.loads(data))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this is no plain data: {error}") from error


def _tagged(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_tagged(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        data = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    raise TypeError(f"a {type(value).__name__} is no plain data, and cannot be sent")


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tuple":
        return tuple(_untagged(item) for item in content)
    if tag == "dict":
        return {_untagged(key): _untagged(item) for key, item in content}
    if tag == "bytes":
        return base64.b64decode(content)
    if tag == "array":
        dtype, shape, data = content
        return np.frombuffer(base64.b64decode(data), dtype=np.dtype(dtype)).reshape(shape).copy()
    raise KeyError(tag)
