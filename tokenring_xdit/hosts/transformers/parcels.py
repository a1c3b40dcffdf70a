"""What ranks tell each other in ``generate``, as plain data: it travels over sockets, and reading it runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.generation import utils as generation

from tokenring_xdit.compat.transformers import CACHE_NAMES
from tokenring_xdit.errors import AgreementError, ConfigurationError, TokenRingError, UnsupportedError

__all__ = ["error_from", "from_plain", "plain", "plain_error", "plain_result", "result_from"]

_TENSOR = "a tensor"

_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (ValueError, TypeError, NotImplementedError, UnsupportedError, ConfigurationError, AgreementError)
}
"""Those that are raised again as they are."""


def plain(value: Any) -> Any:
    """A value without tensors: numbers of them are NumPy's."""
    if isinstance(value, Tensor):
        held = value.detach().cpu()
        held = held.float() if held.dtype in (torch.bfloat16, torch.float16) else held
        return _TENSOR, str(value.dtype).removeprefix("torch."), held.contiguous().numpy()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def from_plain(value: Any, device: torch.device | None = None) -> Any:
    """What :func:`plain` was given, with tuples for lists."""
    if isinstance(value, tuple) and value and isinstance(value[0], str) and value[0] == _TENSOR:
        return torch.from_numpy(value[2]).to(device=device, dtype=getattr(torch, value[1]))
    return tuple(from_plain(item, device) for item in value) if isinstance(value, list) else value


def plain_result(result: Any) -> Any:
    """What ``generate`` returned, without its cache.

    Raises:
        UnsupportedError: It is nothing that ``generate`` of transformers returns.
    """
    if isinstance(result, Tensor):
        return plain(result)
    if not (isinstance(result, Mapping) and hasattr(generation, type(result).__name__)):
        raise UnsupportedError(
            f"custom_generate returned a {type(result).__name__}, which is not told to the other ranks: return a "
            "tensor of tokens, or what generate of transformers returns"
        )
    fields = [[name, plain(value)] for name, value in result.items() if name not in CACHE_NAMES]
    return {"kind": type(result).__name__, "fields": fields}


def result_from(result: Any, cache: Any, device: torch.device) -> Any:
    """What ``generate`` returned on the first rank, with this rank's cache."""
    if not isinstance(result, dict):
        return from_plain(result, device)
    kind = getattr(generation, result["kind"])
    name = next(each for each in CACHE_NAMES if each in kind.__dataclass_fields__)
    return kind(**{each: from_plain(value, device) for each, value in result["fields"]}, **{name: cache})


def plain_error(error: Exception) -> tuple[str, str]:
    """An error as other ranks raise it."""
    kind = type(error).__name__
    if kind in _ERRORS or isinstance(error, TokenRingError):
        return kind, str(error)
    return AgreementError.__name__, f"rank 0 failed in generate: {' '.join(f'{kind}: {error}'.split())}"


def error_from(kind: str, message: str) -> Exception:
    """What :func:`plain_error` was given."""
    return _ERRORS.get(kind, AgreementError)(message)
