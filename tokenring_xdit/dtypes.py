"""The dtypes of weights and activations: their names, the bytes of an element, and torch's objects for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import named, shown

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "DTYPES_IN_SHORT", "DTYPE_BYTES", "DtypeName", "parse_dtype", "torch_dtype"]

DtypeName = Literal["float32", "bfloat16", "float16"]

DTYPE_BYTES: dict[DtypeName, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element, by torch's name for the dtype."""

DTYPES = tuple(DTYPE_BYTES)

DTYPES_IN_SHORT: dict[str, DtypeName] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_SPELLINGS: dict[str, DtypeName] = {**{name: name for name in DTYPES}, **DTYPES_IN_SHORT}


def parse_dtype(value: object) -> DtypeName:
    """One of :data:`DTYPES`, also by its short name.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(value, str) and value in _SPELLINGS:
        return _SPELLINGS[value]
    raise ConfigurationError(f"{shown(value)} is not a dtype. {nearest(named(value), DTYPES)}")


def torch_dtype(name: str) -> torch.dtype:
    """Torch's object for one of :data:`DTYPES`."""
    import torch  # noqa: PLC0415  commands read the names without it

    dtype: torch.dtype = getattr(torch, name)
    return dtype
