"""A use of a pipeline on the worker ranks, once in one process and once after ``parallelize``, and what came of it."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from math import isnan
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.integrations.xfuser.generation import forget_xfuser, latents_of
from tests.support.families import FAMILIES
from tests.support.reference import relative_error

__all__ = [
    "Expected",
    "Kind",
    "Outcome",
    "Scene",
    "Trial",
    "Use",
    "baseline",
    "called",
    "judge",
    "nothing",
    "tensors_of",
    "trial",
]

TOLERANCE = 1e-5
SEED = 77
_EFFECT = 1e-4
"""Least change of the picture by which a use is taken to do something."""


@dataclass(frozen=True)
class Scene:
    """Where a use takes place.

    Attributes:
        family: Key of :data:`tests.support.families.FAMILIES`.
        rank: This rank; 0 in one process.
        alone: Whether it is the pipeline in one process.
    """

    family: str
    rank: int
    alone: bool

    def plain(self) -> Any:
        """The unmodified pipeline, made anew."""
        return FAMILIES[self.family].make()

    def inputs(self, **options: Any) -> dict[str, Any]:
        """Arguments of a call that returns latents."""
        return FAMILIES[self.family].inputs(**options)


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
        degrees: Degrees of ``parallelize``.
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
    degrees: Mapping[str, Any] = field(default_factory=lambda: {"tokenring_degree": 2})


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


class Kind(Enum):
    """How a use went."""

    RIGHT = "right"
    REFUSED = "refused"
    ABSENT = "one process does not do this"
    WRONG = "WRONG"
    CRASH = "CRASH"


@dataclass(frozen=True)
class Outcome:
    """How a use went on all ranks.

    Attributes:
        kind: In a word.
        error: Largest difference of any rank.
        text: The refusal, or what is amiss.
    """

    kind: Kind
    error: float = 0.0
    text: str = ""


@torch.no_grad()
def trial(use: Use, family: str) -> Trial:
    """Try a use on this rank: in one process, then together with the others."""
    alone = Scene(family, 0, alone=True)
    try:
        _seed(SEED)
        pipe = alone.plain()
        use.before(pipe, alone)
        use.after(pipe, alone)
        _seed(SEED)
        expected = use.call(pipe, alone)
    except Exception as error:
        return Trial(absent=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if any(isinstance(value, Tensor) and not value.isfinite().all() for value in expected.values()):
        return Trial(absent="one process makes numbers that are not finite")
    effect = _effect(family, expected)
    with _forwards(use.counted) as forwards:
        try:
            actual = _together(use, Scene(family, dist.get_rank(), alone=False))
        except Exception as error:
            return _raised(error, effect, len(forwards))
    reference = baseline(family) if use.expected is Expected.ROUNDED else expected
    return _compared(actual, reference, effect)


def _together(use: Use, scene: Scene) -> Mapping[str, Any]:
    import tokenring_xdit

    pipe = scene.plain()
    try:
        _seed(SEED + use.seed * scene.rank)
        use.before(pipe, scene)
        tokenring_xdit.parallelize(pipe, **use.degrees)
        use.after(pipe, scene)
        _seed(SEED + use.seed * scene.rank)
        return use.call(pipe, scene)
    finally:
        forget_xfuser()


def _seed(seed: int) -> None:
    import random

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


@cache
def baseline(family: str) -> dict[str, Any]:
    """The picture of one process without any use."""
    return tensors_of(FAMILIES[family].make()(**FAMILIES[family].inputs()))


def _effect(family: str, found: Mapping[str, Any]) -> float:
    before, after = baseline(family)["latents"], found.get("latents")
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


def judge(use: Use, trials: list[Trial]) -> Outcome:
    """How a use went on all ranks together."""
    if any(each.absent for each in trials):
        return Outcome(Kind.ABSENT, text=trials[0].absent)
    if use.raising:
        return _judge_own_error(use, trials)
    if any(each.raised[0] for each in trials):
        return _judge_refusal(use, trials)
    error, effect = max(each.error or 0.0 for each in trials), trials[0].effect
    differs = next((each.differs for each in trials if each.differs), "")
    if differs:
        return Outcome(Kind.WRONG, error, differs)
    allowed = 2 * effect if use.expected is Expected.ROUNDED else TOLERANCE
    if error > allowed:
        alike = len({each.digest for each in trials}) == 1
        if use.expected is Expected.ALIKE and alike:
            return Outcome(Kind.RIGHT, 0.0, "alike")
        return Outcome(Kind.WRONG, error, f"{error:.1e} off on {[f'{each.error or 0:.1e}' for each in trials]}")
    if use.changes and effect < _EFFECT:
        return Outcome(Kind.ABSENT, text="no effect in one process either")
    if use.expected is Expected.REFUSED:
        return Outcome(Kind.WRONG, error, "ranks that differ were not refused")
    return Outcome(Kind.RIGHT, error)


def _judge_own_error(use: Use, trials: list[Trial]) -> Outcome:
    """Whoever has an error of the user's own raises it; the others are told whose it was."""
    for rank, each in enumerate(trials):
        if rank in use.raising and not (each.refusal or each.raised[0] == use.own):
            return Outcome(Kind.CRASH, text=f"rank {rank} raised {each.raised} in place of its own error\n{each.trace}")
        if rank not in use.raising and not (
            each.refusal and any(f"rank {other}" in each.raised[1] for other in use.raising)
        ):
            return Outcome(Kind.CRASH, text=f"rank {rank} was told {each.raised}, not who raised\n{each.trace}")
    said = next((each.raised[1] for rank, each in enumerate(trials) if rank not in use.raising), "")
    return Outcome(Kind.REFUSED, text=" ".join(said.split()) or "the error of the user's own, on every rank")


def _judge_refusal(use: Use, trials: list[Trial]) -> Outcome:
    said = [f"rank {rank}: {': '.join(each.raised) or 'returned'}" for rank, each in enumerate(trials)]
    faults = []
    if not all(each.refusal for each in trials):
        faults.append("not refused on every rank")
    elif len({each.raised for each in trials}) > 1:
        faults.append("not the same sentence")
    else:
        message = trials[0].raised[1]
        if "\n" in message:
            faults.append("more than one line")
        if not re.search(r"\b(use|call|pass|leave|set|load|remove|do|make|give|start|put)\b", message, re.IGNORECASE):
            faults.append("nothing said to do instead")
        faults += [f"does not say {word!r}" for word in use.names if word not in message]
        if not use.late and any(each.forwards for each in trials):
            faults.append(f"after {max(each.forwards for each in trials)} forward passes")
        if use.expected is Expected.RIGHT:
            faults.append("has to be right")
    if faults:
        traces = "\n".join(dict.fromkeys(each.trace for each in trials if not each.refusal))
        return Outcome(Kind.CRASH, text=f"{'; '.join(faults)}: " + " | ".join(said) + "\n" + traces)
    return Outcome(Kind.REFUSED, text=trials[0].raised[1])
