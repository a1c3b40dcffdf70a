"""A use of a pipeline on the worker ranks, once in one process and once after ``parallelize``, and what came of it."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from math import isnan
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.graphs.operators import OperatorRecorder
from tests.hosts.xfuser.generation import latents_of
from tests.support.reference import relative_error
from tests.support.small import peaky, small
from tokenring_xdit.graphs import GraphReport

__all__ = [
    "EFFECT",
    "Expected",
    "MistakenTestError",
    "Scene",
    "Trial",
    "Use",
    "baseline",
    "called",
    "nothing",
    "rounding",
    "tensors_of",
    "trial",
]

SEED = 77
_REPLAYING = 4
"""Steps after which a call that has one form was rehearsed, captured and replayed."""

EFFECT = 1e-4
"""Least change of the picture by which a use is taken to do something."""


class MistakenTestError(Exception):
    """A use is mistaken about a pipeline, which says nothing about what one process does."""


@dataclass(frozen=True)
class Scene:
    """Where a use takes place.

    Attributes:
        family: Key of the pipeline, for :func:`tests.support.small.small`.
        rank: This rank; 0 in one process.
        alone: Whether it is the pipeline in one process.
        host: Which host spreads it.
        graphs: Whether calls of its transformer are recorded and replayed, and there are enough for that.
    """

    family: str
    rank: int
    alone: bool
    host: str = "xfuser"
    graphs: bool = False

    def plain(self) -> Any:
        """The unmodified pipeline, made anew."""
        return _plain(self.family, self.host)

    def inputs(self, **options: Any) -> dict[str, Any]:
        """Arguments of a call that returns latents."""
        return small(self.family).inputs(**({"steps": _REPLAYING, **options} if self.graphs else options))


Change = Callable[[Any, Scene], object]
Call = Callable[[Any, Scene], Mapping[str, Any]]


def nothing(pipe: Any, scene: Scene) -> None:
    """Leave the pipeline as it is."""


def called(
    extra: Callable[[Any, Scene], Mapping[str, Any]] | None = None, without: tuple[str, ...] = (), **options: Any
) -> Call:
    """One call of the pipeline.

    Args:
        extra: Further arguments of the call.
        without: Arguments that are left out.
        **options: Options of the family's inputs.
    """

    def call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        more = {} if extra is None else extra(pipe, scene)
        inputs = {name: value for name, value in scene.inputs(**options).items() if name not in without}
        return tensors_of(pipe(**{**inputs, **more}))

    return call


def tensors_of(output: Any) -> dict[str, Any]:
    """What a pipeline returned, by name."""
    found: dict[str, Any] = {"latents": latents_of(output)}
    if getattr(output, "audio", None) is not None:
        found["audio"] = output.audio
    return found


class Expected(Enum):
    """What has to come of a use; right or refused is always asked for."""

    EITHER = "right or refused"
    RIGHT = "right"
    REFUSED = "refused"
    ALIKE = "right or refused, or the same on all ranks where one process has no generator either"
    ROUNDED = "as far from fp32 as one process, or refused"


@dataclass(frozen=True)
class Use:
    """Something that people do with a pipeline.

    Attributes:
        title: Its row in the table.
        before: What is done to the pipeline before ``parallelize``.
        after: What is done to it afterwards.
        call: What is compared.
        expected: What has to come of it, in all families where one process does it.
        families: Families it is tried in; ``None`` is all.
        changes: Whether the picture has to be another one than without the use, for the comparison to say anything.
        names: Words that a refusal has to contain.
        late: Whether a refusal may come after the first step.
        counted: Whether forward passes are counted, which takes hooks.
        raising: Ranks that raise an error of the user's own, named ``own``.
        own: Class of that error.
        seed: Added to each rank's global seed, times the rank.
        tolerance: Largest difference that is right, relative to the scale.
        steps: Steps of the call, to tell the change of the picture.
    """

    title: str
    before: Change = nothing
    after: Change = nothing
    call: Call = field(default_factory=called)
    expected: Expected = Expected.EITHER
    families: frozenset[str] | None = None
    changes: bool = True
    names: tuple[str, ...] = ()
    late: bool = False
    counted: bool = True
    raising: frozenset[int] = frozenset()
    own: str = "OwnError"
    seed: int = 1
    tolerance: float = 1e-5
    steps: int = 2


@dataclass(frozen=True)
class Trial:
    """What came of a use on one rank.

    Attributes:
        absent: What one process says where it does not do this.
        effect: Change of the picture in one process.
        error: Largest difference to one process, relative to its scale; ``None`` where the rank raised.
        differs: Which results that are no tensors differ, and how.
        digest: Of all results.
        raised: Class and message of what the rank raised.
        refusal: Whether that is one of this package's errors.
        trace: Its traceback.
        forwards: Forward passes of a transformer that had ended by then.
        graphs: What became of calls that were to be replayed, by transformer.
    """

    absent: str = ""
    effect: float = 0.0
    error: float | None = None
    differs: str = ""
    digest: str = ""
    raised: tuple[str, str] = ("", "")
    refusal: bool = False
    trace: str = ""
    forwards: int = 0
    graphs: Mapping[str, GraphReport] = field(default_factory=dict)


@torch.no_grad()
def trial(use: Use, family: str, host: str = "xfuser", *, graphs: bool = False) -> Trial:
    """Try a use: on the first rank by itself, then on all together.

    Args:
        use: The use.
        family: Key of the family.
        host: Which host spreads it.
        graphs: Whether calls of the transformer are to be replayed.
    """
    parcel = [_alone(use, Scene(family, 0, True, host, graphs)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(parcel, src=0)
    (reference,) = parcel
    assert reference is not None
    if reference.absent:
        return Trial(absent=reference.absent)
    baseline(family, host)  # some uses ask for its shape, and its passes are none of theirs
    with _forwards(use.counted) as forwards:
        try:
            actual, reports = _together(use, Scene(family, dist.get_rank(), False, host, graphs))
        except Exception as error:
            return _raised(error, reference.effect, len(forwards))
    return replace(_compared(actual, reference.results, reference.effect), graphs=reports)


@dataclass(frozen=True)
class _Reference:
    """What one process makes.

    Attributes:
        absent: What it says where it does not do this.
        results: What it makes.
        effect: Change of the picture.
    """

    absent: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    effect: float = 0.0


def _alone(use: Use, scene: Scene) -> _Reference:
    """The use in one process: the first rank by itself (transformers writes files there only)."""
    try:
        found = _performed(use, scene)
    except MistakenTestError:
        raise
    except Exception as error:
        return _Reference(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if any(isinstance(value, Tensor) and not value.isfinite().all() for value in found.values()):
        return _Reference("one process makes numbers that are not finite")
    results = baseline(scene.family, scene.host) if use.expected is Expected.ROUNDED else found
    return _Reference("", results, _effect(use, scene.family, found, scene.host))


def _performed(use: Use, scene: Scene) -> Mapping[str, Any]:
    _seed(SEED)
    pipe = scene.plain()
    use.before(pipe, scene)
    use.after(pipe, scene)
    _seed(SEED)
    return use.call(pipe, scene)


class _Nudged(Scene):
    """Where the pipeline's transformer has weights that are larger by their last bit."""

    def plain(self) -> Any:
        pipe = super().plain()
        for weight in pipe.transformer.parameters():
            weight.data.mul_(1 + torch.finfo(torch.float32).eps)
        return pipe


@torch.no_grad()
def rounding(use: Use, family: str, host: str = "xfuser", *, graphs: bool = False) -> float:
    """What another kernel of attention, or the last bit of the weights, changes in one process, relative to the scale.

    Some schedulers and decoders make 1e-5 and more of a rounding: a difference of that size says nothing.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    scene = Scene(family, 0, alone=True, host=host, graphs=graphs)
    expected = _performed(use, scene)
    nudged = _performed(use, _Nudged(family, 0, alone=True, host=host, graphs=graphs))
    with sdpa_kernel(SDPBackend.MATH):
        others = [nudged, _performed(use, scene)]
    return max(_compared(other, expected, 0.0).error or 0.0 for other in others)


def _together(use: Use, scene: Scene) -> tuple[Mapping[str, Any], Mapping[str, GraphReport]]:
    import tokenring_xdit

    pipe = scene.plain()
    try:
        with _recorded_on_processors() if scene.graphs else nullcontext():
            _seed(SEED + use.seed * scene.rank)
            use.before(pipe, scene)
            asked = {"cuda_graphs": True} if scene.graphs else {}
            tokenring_xdit.parallelize(pipe, host=scene.host, tokenring_degree=dist.get_world_size(), **asked)
            use.after(pipe, scene)
            _seed(SEED + use.seed * scene.rank)
            found = use.call(pipe, scene)
            return found, tokenring_xdit.graph_reports(pipe) if scene.graphs else {}
    finally:
        _forget()


@contextmanager
def _recorded_on_processors() -> Iterator[None]:
    """Inside, CUDA graphs are operators that are recorded on processors."""
    from tokenring_xdit.hosts.xfuser import host

    with (
        mock.patch.object(host, "CudaRecorder", OperatorRecorder),
        mock.patch.object(host, "_refuse_graphs_here"),
    ):
        yield


def _forget() -> None:
    """Make xfuser believe that it was never started: the pool destroys all groups itself."""
    from xfuser.core.distributed import parallel_state, runtime_state

    for name, value in vars(parallel_state).items():
        if name.startswith("_") and isinstance(value, parallel_state.GroupCoordinator):
            setattr(parallel_state, name, None)
    runtime_state._RUNTIME = None


def _seed(seed: int) -> None:
    import random

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


@cache
def baseline(family: str, host: str, steps: int = 2) -> dict[str, Any]:
    """The picture of one process without any use."""
    return tensors_of(_plain(family, host)(**small(family).inputs(steps=steps)))


def _plain(family: str, host: str) -> Any:
    # with xfuser each family decides by itself how peaky its attention is
    return small(family).make() if host == "xfuser" else peaky(family)


def _effect(use: Use, family: str, found: Mapping[str, Any], host: str) -> float:
    before, after = baseline(family, host, use.steps)["latents"], found.get("latents")
    if not isinstance(after, Tensor) or before.shape != after.shape:
        return 1.0
    return relative_error(after, before)


@contextmanager
def _forwards(counted: bool) -> Iterator[list[str]]:
    """A list that gets the name of each transformer whose forward pass ended."""
    from diffusers import ModelMixin

    done: list[str] = []

    def count(module: Any, arguments: Any, output: Any) -> None:
        name = type(module).__name__
        if isinstance(module, ModelMixin) and ("Transformer" in name or "DiT" in name):
            done.append(name)

    if not counted:
        yield done
        return
    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        yield done
    finally:
        handle.remove()


def _raised(error: Exception, effect: float, forwards: int) -> Trial:
    from tokenring_xdit.errors import TokenRingError

    return Trial(
        effect=effect,
        raised=(type(error).__name__, str(error)),
        refusal=isinstance(error, TokenRingError),
        trace="".join(traceback.format_exception(error)[-6:]),
        forwards=forwards,
    )


def _compared(actual: Mapping[str, Any], expected: Mapping[str, Any], effect: float) -> Trial:
    errors, differs, digest = [0.0], [], hashlib.sha256()
    for name, value in expected.items():
        found = actual.get(name)
        digest.update(found.double().numpy().tobytes() if isinstance(found, Tensor) else repr(found).encode())
        if isinstance(value, Tensor) and value.is_floating_point():
            if not isinstance(found, Tensor) or found.shape != value.shape:
                differs.append(f"{name} is {_short(found)} in place of {_short(value)}")
            else:
                error = relative_error(found, value)
                errors.append(float("inf") if isnan(error) else error)
        elif _plainly(found) != _plainly(value):
            differs.append(f"{name} is {_short(found)} in place of {_short(value)}")
    return Trial(effect=effect, error=max(errors), differs="; ".join(differs), digest=digest.hexdigest())


def _plainly(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _short(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:300]
