"""Which calls are compared with fp64, how large a checkup's problems are, and how long its parts may take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tokenring_xdit.doctor.commands import CheckCall
from tokenring_xdit.doctor.record import NamedShape
from tokenring_xdit.dtypes import DtypeName
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.hosts.models import model_shape
from tokenring_xdit.schedule import ALGORITHMS, Algorithm, Mask, ScheduleSpec, build, parse

__all__ = [
    "ERROR_LIMITS",
    "CheckupPart",
    "CheckupPlan",
    "Step",
    "check_calls",
    "in_words",
    "specs_of",
]

Step = Callable[[int, int, str], None]
"""Told how many steps of a part are done, of how many, and what comes next; may raise to end the part."""

ERROR_LIMITS: dict[DtypeName, float] = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3}
"""How far from fp64 is exact, as a share of the output's scale: rounding of the dtype, and no more."""

_HEADS_A_RANK = 2  # of queries; half as many of keys where they are grouped
_HEAD_DIM = 64
_TOKENS = 24  # of a rank, about
_TEXT = 13


class CheckupPart(Enum):
    """What a checkup is made of, in its order. The values are what ``--skip`` takes."""

    EXACTNESS = "exactness"
    LINKS = "links"
    LAUNCHES = "launches"
    KERNELS = "kernels"
    STRATEGIES = "strategies"
    STEP = "step"


@dataclass(frozen=True)
class CheckupPlan:
    """What a checkup does.

    Attributes:
        ranks: Ranks of what needs several.
        gpus: GPUs of this machine; of all nodes, where there are several.
        quick: Whether to measure little.
        skip: Parts that are left out.
        nodes: Nodes on which torchrun started the ranks; 0 where the checkup starts them, on this machine.
    """

    ranks: int
    gpus: int
    quick: bool = False
    skip: frozenset[CheckupPart] = frozenset()
    nodes: int = 0

    @property
    def on_gpus(self) -> bool:
        """Whether each rank has a GPU."""
        return self.gpus >= self.ranks

    @property
    def dtypes(self) -> tuple[DtypeName, ...]:
        """Of calls that are compared."""
        return ("bfloat16", "float32") if self.on_gpus else ("float32",)

    @property
    def timed_ranks(self) -> int:
        """Ranks of strategies and steps: on a processor each takes seconds to import what it needs."""
        return self.ranks if self.nodes or self.on_gpus or not self.quick else min(2, self.ranks)

    @property
    def seconds(self) -> float:
        """What all of it may take, about; what is not done then is left out."""
        return 180.0 if self.quick else 600.0

    @property
    def kernel_shape(self) -> NamedShape:
        """What kernels are timed at."""
        return self.shapes[0] if self.on_gpus or not self.gpus else _of_models()[0]

    @property
    def shapes(self) -> tuple[NamedShape, ...]:
        """What strategies are timed at: models on GPUs, and what a processor computes in a moment without.

        Sequences are as long as ranks can share evenly, which xfuser's strategies ask for.
        """
        if self.on_gpus:
            found = _of_models()
            shapes: Sequence[NamedShape] = found[:2] if self.quick else found
        else:
            shapes = [NamedShape(name="a small picture", tokens=1024, heads=8, head_dim=64)]
            if not self.quick:
                shapes.append(NamedShape(name="a picture", tokens=2048, heads=8, head_dim=64))
        ranks = self.timed_ranks
        return tuple(s.model_copy(update={"tokens": s.tokens // ranks * ranks}) for s in shapes)


def _of_models() -> tuple[NamedShape, ...]:
    asked = (
        ("Flux 1024", "flux", (1024, 1024, 1)),
        ("Flux 2048", "flux", (2048, 2048, 1)),
        ("SD3 1024", "sd3", (1024, 1024, 1)),
        ("Wan 720p", "wan-14b", (1280, 720, 81)),
    )
    models = [(name, model_shape(model), size) for name, model, size in asked]
    return tuple(
        NamedShape(name=name, tokens=model.tokens(*size), heads=model.heads, head_dim=model.head_dim)
        for name, model, size in models
    )


def specs_of(algorithm: Algorithm, ranks: int, mask: Mask) -> Iterator[ScheduleSpec]:
    """A schedule as it is asked for, plain, with each option that says how it runs, and as wide as can be.

    What is not defined for this number of ranks is left out.
    """
    heads = _HEADS_A_RANK * ranks
    options = ["", *algorithm.worth(ranks, heads), *(["chunks=2"] if "chunks" in algorithm.options else [])]
    if algorithm.across_nodes:
        options += [f"nodes={nodes}" for nodes in range(2, ranks) if ranks % nodes == 0]
    named = [parse(f"{algorithm.name}:{said}" if said else algorithm.name) for said in options]
    for spec in dict.fromkeys([each for name in named for each in (name, name.having(wide=ranks))]):
        try:
            build(str(spec), ranks, mask, heads)
        except ScheduleError:
            continue
        yield spec


def check_calls(ranks: int, dtypes: Sequence[DtypeName]) -> dict[str, list[CheckCall]]:
    """The calls that are compared, by the name of the schedule that they are of.

    A schedule that is defined for no call of that many ranks has an empty list.
    """
    heads = _HEADS_A_RANK * ranks
    even = (_TOKENS,) * ranks
    uneven = tuple(_TOKENS - 7 + (11 * rank) % 17 for rank in range(ranks))
    found: dict[str, list[CheckCall]] = {}
    for name, algorithm in ALGORITHMS.items():
        calls = found.setdefault(name, [])
        for mask in sorted(algorithm.masks, key=lambda mask: mask.value, reverse=True):
            causal = mask is Mask.CAUSAL
            for spec in specs_of(algorithm, ranks, mask):
                for dtype in dtypes:
                    for lengths, kv_heads, text in (
                        (even, heads, 0),
                        (uneven, heads, 0 if causal else _TEXT),
                        (even, ranks, 0),
                        (uneven, ranks, 0),
                    ):
                        calls.append(CheckCall(str(spec), causal, lengths, heads, kv_heads, _HEAD_DIM, text, dtype))
    return found


def in_words(call: CheckCall) -> str:
    """The shards and heads of a call, for people."""
    shards = "even shards" if len(set(call.lengths)) == 1 else "uneven shards"
    heads = f"{call.heads} heads" if call.heads == call.kv_heads else f"{call.heads} heads, {call.kv_heads} of keys"
    return f"{shards}, {heads}" + (f", {call.text} text tokens" if call.text else "")
