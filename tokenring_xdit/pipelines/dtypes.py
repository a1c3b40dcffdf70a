"""What weights and activations may be."""

from __future__ import annotations

from tokenring_xdit.errors import ConfigurationError, nearest

__all__ = ["DTYPES", "DTYPES_IN_SHORT", "parse_dtype"]

DTYPES = ("float32", "bfloat16", "float16")

DTYPES_IN_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def parse_dtype(name: str) -> str:
    """One of :data:`DTYPES`, also by its short name.

    Raises:
        ConfigurationError: It is none.
    """
    found = DTYPES_IN_SHORT.get(name, name) if isinstance(name, str) else None
    if found not in DTYPES:
        raise ConfigurationError(f"{name!r} is not a dtype. {nearest(str(name), DTYPES)}")
    return found
