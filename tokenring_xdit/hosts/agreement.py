"""What all ranks must be given alike: the arguments of a call, the inputs of a model, the noise that nobody seeded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tokenring_xdit.attention import exchange
from tokenring_xdit.errors import AgreementError, ConfigurationError, TokenRingError, UnsupportedError, named

__all__ = [
    "ONE_PICTURE",
    "agree_on_arguments",
    "agree_on_inputs",
    "agree_on_result",
    "describe",
    "difference",
    "noise_of_the_first_rank",
    "noting",
    "refuse_differing",
    "said_by_all",
    "summary",
]

ONE_PICTURE = "make one picture"
"""What all ranks do together with a pipeline."""

_EVERYWHERE = "pass the same everywhere"

_PARTS = 64
"""Into how many parts a tensor is summed up for a comparison."""

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How much a part may differ, relative to its norm: what one device's kernels may round otherwise than another's."""

_Parts = list[tuple[float, float]]


class noting:  # noqa: N801
    """Keeps what goes wrong inside, so that all ranks learn of it before it is raised.

    Args:
        problem: What went wrong before; nothing else is noted then.

    Attributes:
        problem: What went wrong.
    """

    def __init__(self, problem: TokenRingError | None = None) -> None:
        self.problem = problem

    def __enter__(self) -> noting:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        if self.problem is None:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self.problem = error if isinstance(error, TokenRingError) else ConfigurationError(words)
            self.problem.__cause__ = None if self.problem is error else error
        return True


def agree_on_arguments(
    arguments: Mapping[str, Any],
    problem: TokenRingError | None = None,
    weights: Mapping[str, str] | None = None,
    doing: str = ONE_PICTURE,
) -> None:
    """Refuse a call whose ranks were given different arguments, on all of them, before anything is computed.

    Args:
        arguments: By name. Numbers, texts, tensors, arrays, pictures and generators are compared to the last bit;
            what cannot be compared (a function, say) by its kind.
        problem: Why this rank refuses the call; it is then raised on all ranks.
        weights: Digests of what the ranks have loaded, by name.
        doing: What all ranks do together.

    Raises:
        AgreementError: The ranks were given different arguments, or have loaded different weights.
        TokenRingError: ``problem``, or that of another rank.
    """
    mine: dict[str, str] = {}
    with noting(problem) as noted:
        mine = {name: describe(value) for name, value in arguments.items()}
    problem = noted.problem
    everyone = said_by_all("the arguments of the call", problem, mine, dict(weights or {}))
    refuse_differing([theirs for theirs, _ in everyone], doing, f"{_EVERYWHERE}, broadcast from rank 0 if need be")
    loaded = [theirs for _, theirs in everyone]
    for rank, others in enumerate(loaded):
        for name in {**loaded[0], **others}:
            if others.get(name) != loaded[0].get(name):
                raise AgreementError(
                    f"all ranks {doing} together, but {name} differs between rank 0 and rank {rank}: load the "
                    "same weights and adapters on every rank, with the same strengths"
                )


def refuse_differing(
    everyone: Sequence[Mapping[str, str]],
    doing: str,
    remedy: str = _EVERYWHERE,
    remedies: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse what is not the same on all ranks.

    Args:
        everyone: For each rank, values in words, by name.
        doing: What all ranks do.
        remedy: What to do about it.
        remedies: What to do about some of them, by name.

    Raises:
        AgreementError: Ranks differ.
    """
    first = everyone[0]
    for rank, theirs in enumerate(everyone):
        for name in {**first, **theirs}:
            wanted, found = first.get(name, "not passed"), theirs.get(name, "not passed")
            if wanted != found:
                raise AgreementError(
                    f"all ranks {doing} together, but {name} is {wanted} on rank 0 and {found} on rank {rank}: "
                    f"{remedies.get(name, remedy)}"
                )


def agree_on_inputs(
    model: str, inputs: Mapping[str, Any], problem: TokenRingError | None = None, beside: Any = None
) -> list[Any]:
    """Refuse a call of a sharded model whose ranks give it different inputs, on all of them.

    Tensors of floating point numbers may differ by what devices round otherwise, and by no more.

    Args:
        model: What the model is called.
        inputs: By name.
        problem: Why this rank refuses the call; it is then raised on all ranks.
        beside: What else this rank tells the others, plain data.

    Returns:
        What each rank tells beside its inputs.

    Raises:
        AgreementError: The ranks gave different inputs.
        TokenRingError: ``problem``, or that of another rank.
    """
    mine: dict[str, Any] = {}
    with noting(problem) as noted:
        _sum_up(inputs)
        mine = {name: summary(value) for name, value in inputs.items()}
    problem = noted.problem
    everyone = said_by_all(f"the inputs of the {model}", problem, mine, beside)
    first = everyone[0][0]
    for rank, (theirs, _) in enumerate(everyone):
        for name in {**first, **theirs}:
            found = difference(first.get(name), theirs.get(name))
            if found is not None:
                raise AgreementError(
                    f"all ranks compute one call of the {model} together, but {name} {found} between rank 0 and "
                    f"rank {rank}: make what it comes from the same on all ranks (a callback, a tensor or a seed of "
                    "each rank's own), for example with torch.distributed.broadcast"
                )
    return [theirs for _, theirs in everyone]


def agree_on_result(pipeline: str, result: Any) -> None:
    """Refuse a call that came to an end on some ranks only, or to other results, on all of them.

    Args:
        pipeline: What the pipeline is called.
        result: What it made on this rank.

    Raises:
        AgreementError: A rank is still in the call, or made something else.
    """
    everyone = exchange(None, [summary(values) for values in _numbers(result)], f"the end of a call of {pipeline}")
    for rank, theirs in enumerate(everyone):
        found = difference(everyone[0], theirs)
        if found is not None:
            raise AgreementError(
                f"all ranks made one result together, but it {found} between rank 0 and rank {rank}: make what the "
                "last step's callback does, and what decodes (the VAE's weights, say), the same on all ranks"
            )


@contextmanager
def noise_of_the_first_rank(device: torch.device) -> Iterator[None]:
    """Inside, the global generators of all ranks are in the state that the first rank's have when it is entered.

    So code that makes noise without a generator (schedulers, callbacks) makes the same on every rank, and the
    same as one process with the first rank's seed. The other ranks have their own states again afterwards.

    Args:
        device: Where the model is.
    """
    own = _states(device)
    mine = own if torch.distributed.get_rank() == 0 else None
    states = exchange(None, mine, "the state of the random generators")
    _set_states(states[0], device)
    try:
        yield
    finally:
        if torch.distributed.get_rank() != 0:
            _set_states(own, device)


def describe(value: Any) -> str:
    """A value in words that are equal where the values are, to the last bit."""
    if isinstance(value, torch.Generator):
        return f"a generator in state {_digest(value.get_state())}"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype} with the values {_digest(value)}"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype} with the values {_digest_of(value.tobytes())}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(describe, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {describe(item)}' for name, item in value.items())}}}"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    if hasattr(value, "tobytes") and hasattr(value, "size"):  # a PIL picture
        return f"a picture of {value.size} pixels with the values {_digest_of(value.tobytes())}"
    return f"a {type(value).__name__}"


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _digest(tensor: Tensor) -> str:
    whole = tensor.detach().cpu().flatten()
    packed = torch.empty_like(whole, memory_format=torch.contiguous_format).copy_(whole)  # numpy has no bfloat16
    return _digest_of(packed.view(torch.uint8).numpy().tobytes() if packed.numel() else b"")


def said_by_all(what: str, problem: TokenRingError | None, *said: Any) -> list[Any]:
    """What each rank says, where none of them refuses.

    Args:
        what: What is exchanged.
        problem: Why this rank refuses; it is then raised on all ranks.
        *said: What it says, plain data.

    Returns:
        A list of each rank.

    Raises:
        TokenRingError: ``problem``, or that of another rank.
    """
    told = None if problem is None else (type(problem).__name__, str(problem))
    everyone = exchange(None, (told, *said), what)
    _raise_first([refused for refused, *_ in everyone])
    return [theirs for _, *theirs in everyone]


def _raise_first(refusals: list[tuple[str, str] | None]) -> None:
    """Raise what ranks refuse, the same on all of them; ``refusals`` is what each of them told."""
    refusing = [rank for rank, problem in enumerate(refusals) if problem is not None]
    if not refusing:
        return
    kind, message = refusals[refusing[0]]  # type: ignore[misc]
    error = named(kind, message)
    if len(set(refusals)) == 1 and type(error).__name__ == kind:
        raise error
    raise (type(error) if isinstance(error, UnsupportedError) else AgreementError)(
        f"rank {refusing[0]} refuses: {message}"
    )


def _numbers(result: Any) -> list[Tensor]:
    """The pictures in a pipeline's result, as numbers that may differ by what devices decode otherwise."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, np.ndarray):
        return [torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32)).bfloat16()]
    if hasattr(result, "tobytes") and hasattr(result, "size"):  # a PIL picture
        return _numbers(np.asarray(result))
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (list, tuple)) else ()
    return [numbers for part in parts for numbers in _numbers(part)]


def _sum_up(inputs: Mapping[str, Any]) -> None:
    """Sum up what has changed among the inputs, with one copy from the device."""
    several = [list(value.values()) if isinstance(value, Mapping) else value for value in inputs.values()]
    parts = [part for value in several for part in (value if isinstance(value, (list, tuple)) else [value])]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.dtype in _TOLERANCE]
    changed = [t for t in tensors if not t.is_inference() and _known(t) is None]
    if len({tensor.device for tensor in changed}) == 1:
        numbers = [_numbers_of(tensor) for tensor in changed]
        lists = torch.cat(numbers).tolist()
        for tensor, own in zip(changed, numbers, strict=True):
            mine, lists = lists[: len(own)], lists[len(own) :]
            _summaries[tensor] = tensor._version, _summary(tensor, mine)


def summary(value: Any) -> Any:
    """What stands for an input in a comparison: a few numbers, and what has to be equal."""
    if isinstance(value, Mapping):
        return [part for name, item in value.items() for part in (describe(name), summary(item))]
    if not isinstance(value, Tensor) or value.dtype not in _TOLERANCE:
        return [summary(item) for item in value] if isinstance(value, (list, tuple)) else describe(value)
    if value.is_inference():  # which do not tell when they change
        return _summary(value)
    known = _known(value)
    if known is None:
        known = _summary(value)
        _summaries[value] = value._version, known
    return known


_summaries = WeakTensorKeyDictionary()
"""Of tensors that come again in each step, such as a prompt's, with the version that was summed up."""


def _known(tensor: Tensor) -> tuple[Any, ...] | None:
    """The summary of a tensor that has not changed since."""
    version, known = _summaries.get(tensor, (-1, None))  # type: ignore[no-untyped-call]
    return known if version == tensor._version else None


def _summary(tensor: Tensor, numbers: list[list[float]] | None = None) -> tuple[Any, ...]:
    parts: _Parts = [(total, norm) for total, norm in (numbers or _numbers_of(tensor).tolist())]
    return tuple(tensor.shape), str(tensor.dtype), parts, _TOLERANCE[tensor.dtype]


def _numbers_of(tensor: Tensor) -> Tensor:
    """A weighted sum and the norm of each part of a tensor, ``[parts, 2]``."""
    flat = tensor.detach().flatten().float()
    each = max(1, -(-flat.numel() // _PARTS))
    parts = torch.nn.functional.pad(flat, (0, -flat.numel() % each)).view(-1, each)
    return torch.stack([parts @ _factors(each, flat.device), parts.norm(dim=1)], dim=1)


@lru_cache(maxsize=64)
def _factors(count: int, device: torch.device) -> Tensor:
    """Fixed random factors of either sign, none near zero: neighbours that change places change the sum."""
    generator = torch.Generator().manual_seed(count)
    signs = torch.randint(2, (count,), generator=generator) * 2 - 1
    return (signs * (0.5 + torch.rand(count, generator=generator))).to(device)


def difference(mine: Any, theirs: Any) -> str | None:
    """How two summaries differ, in words; ``None`` where they do not."""
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        found = (difference(a, b) for a, b in zip(mine, theirs, strict=True))
        return next((difference for difference in found if difference is not None), None)
    if not (isinstance(mine, tuple) and isinstance(theirs, tuple)) or mine[:2] != theirs[:2]:
        return None if mine == theirs else "differs"
    worst = max((_distance(a, b) for a, b in zip(mine[2], theirs[2], strict=True)), default=0.0)
    return None if worst <= mine[3] else f"differs by about {min(worst, 2.0):.1g} of its size"


def _distance(mine: tuple[float, float], theirs: tuple[float, float]) -> float:
    """How far a part is from another, relative to its norm; values that are no numbers are as far as can be."""
    if repr(mine) == repr(theirs):
        return 0.0
    size = max(mine[1], theirs[1], 1e-30)
    distance = max(abs(mine[0] - theirs[0]), abs(mine[1] - theirs[1])) / size
    return distance if distance == distance else 2.0  # noqa: PLR0124 - NaN


def _states(device: torch.device) -> dict[str, Any]:
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).numpy()
    return states


def _set_states(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(torch.from_numpy(states["cuda"]), device)
