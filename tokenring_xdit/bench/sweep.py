"""A sweep as a YAML file says it, and the cases that it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tokenring_xdit.bench.plan import CallShape, Case, Level, Strategy
from tokenring_xdit.bench.service import ServiceShape
from tokenring_xdit.bench.text import TextShape, text_model
from tokenring_xdit.bench.workload import GUIDANCE, PROMPT, WorkloadShape, flux_model
from tokenring_xdit.config import Config, parsed_by
from tokenring_xdit.dtypes import DTYPES, DTYPES_IN_SHORT, DtypeName, parse_dtype
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError
from tokenring_xdit.lab.network import Network, load_network
from tokenring_xdit.messages import shown
from tokenring_xdit.sizes import PictureSize

__all__ = ["Axes", "SweepConfig", "inspect_models"]

NO_NETWORK = "none"
"""How a sweep says that its ranks talk over this machine's own loopback."""

_MOST_RANKS = 1024
_MOST_COMPARISONS = 10_000


def _several(value: Any) -> Any:
    """A list where one value stands for a list of one."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError("the list is empty")
    return tuple(values)


def _each(parse: Callable[[Any], Any]) -> BeforeValidator:
    return parsed_by(lambda value: tuple(map(parse, _several(value))))


def _strategy(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{shown(name)} is not the name of a strategy")
    return str(Strategy.parse(name))


def _network(value: Any) -> Any:
    if value is None:
        return NO_NETWORK
    if isinstance(value, str) and value != NO_NETWORK:
        load_network(value)
    return value


def _one_or_many(items: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [items, {"type": "array", "items": items}]})


_COUNT = {"type": "integer", "minimum": 1}
_RANKS = {"type": "integer", "minimum": 1, "maximum": _MOST_RANKS}
Counts = Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], BeforeValidator(_several), _one_or_many(_COUNT)]
Ranks = Annotated[
    tuple[Annotated[int, Field(ge=1, le=_MOST_RANKS)], ...], BeforeValidator(_several), _one_or_many(_RANKS)
]
Strategies = Annotated[tuple[str, ...], _each(_strategy), _one_or_many({"type": "string"})]
Dtypes = Annotated[
    tuple[DtypeName, ...],
    _each(parse_dtype),
    _one_or_many({"enum": [*DTYPES, *DTYPES_IN_SHORT]}),
]
Rates = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)], ...],
    BeforeValidator(_several),
    _one_or_many({"type": "number", "exclusiveMinimum": 0, "maximum": 1000}),
]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several), _one_or_many({"type": "string"})
]
Sizes = Annotated[tuple[str, ...], _each(lambda size: str(PictureSize.parse(size))), _one_or_many({"type": "string"})]

_AXES: dict[Level, dict[str, tuple[Any, ...] | None]] = {
    Level.ATTENTION: {"tokens": None, "queries": (None,), "heads": (8,), "head_dim": (64,), "batch": (1,)},
    Level.PIPELINE: {"models": None, "sizes": None, "steps": (2,)},
    Level.SERVICE: {"models": None, "sizes": None, "steps": (2,), "rates": (1.0,)},
    Level.TEXT: {"models": None, "tokens": None, "queries": (None,), "batch": (1,)},
}
"""The axes that not all levels have, and what they are if nobody says."""


class Axes(BaseModel):
    """Values that replace those of the sweep in one of its ``cases``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    strategies: Strategies | None = None
    ranks: Ranks | None = None
    tokens: Counts | None = None
    queries: Counts | None = None
    heads: Counts | None = None
    head_dim: Counts | None = None
    batch: Counts | None = None
    dtype: Dtypes | None = None
    models: Names | None = None
    sizes: Sizes | None = None
    steps: Counts | None = None
    rates: Rates | None = None


class SweepConfig(Config):
    """A sweep. Axes take one value or a list; every combination of them is a comparison of all strategies."""

    level: Literal["attention", "pipeline", "text", "service"] = Field(
        "attention",
        description="attention; pipeline: whole denoising steps; text: tokens of a language model; service: requests "
        "to a server",
    )
    strategies: Strategies = Field(
        description="single, ulysses, xfuser-ring, xfuser-ring-alltoall, schedule:NAME, or ulysses=N+schedule:NAME; "
        "captured+STRATEGY replays calls as CUDA graphs; of level pipeline diffusers-ulysses and diffusers-ring; "
        "of level text balanced, pass-kv, pass-q or gather-kv"
    )
    ranks: Ranks = Field(description="ranks that share the sequence")
    tokens: Counts | None = Field(None, description="length of the whole sequence")
    queries: Counts | None = Field(
        None, description="number of queries, by default all tokens; at level text, the number of new tokens"
    )
    heads: Counts | None = Field(None, description="heads of queries, keys and values, 8 by default")
    head_dim: Counts | None = Field(None, description="width of a head, 64 by default")
    batch: Counts | None = Field(None, description="items of a batch, 1 by default")
    models: Names | None = Field(
        None,
        description="of levels pipeline and service: embedded, random-flux:..., or a Flux model; of level text: "
        "random-llama:..., smollm2, or a language model",
    )
    sizes: Sizes | None = Field(
        None, description="of level pipeline: pixels, or WIDTHxHEIGHT; of level service what is asked for, mixed"
    )
    steps: Counts | None = Field(
        None, description="of levels pipeline and service: denoising steps of a call, 2 by default"
    )
    rates: Rates | None = Field(None, description="of level service: requests a second, on average, 1 by default")
    requests: int = Field(20, ge=1, le=1000, description="of level service: requests of a round")
    prompt: str = Field(PROMPT, min_length=1, description="of levels pipeline and service: the prompt")
    guidance: float = Field(
        GUIDANCE,
        ge=0,
        allow_inf_nan=False,
        description="of levels pipeline and service: guidance scale, for models distilled with one",
    )
    answer: int = Field(
        0, ge=0, lt=2**20, description="of level text: tokens to generate after a whole prompt, to compare them"
    )
    chunk: int | None = Field(
        None, ge=1, lt=2**31, description="of level text: new tokens that are computed at a time; all of them otherwise"
    )
    text_file: str | None = Field(None, description="of level text: file with the text; random tokens otherwise")
    dtype: Dtypes = Field(("float32",), description="float32, bfloat16 or float16")
    cases: Annotated[tuple[Axes, ...], BeforeValidator(_several)] | None = Field(
        None, description="list of changes to these axes, each with combinations of its own, in place of the above"
    )
    network: Annotated[str, parsed_by(_network)] = Field(
        NO_NETWORK, description="emulated network, as mesh:4:100mbit or a YAML file; 'none' is this machine's loopback"
    )
    rounds: int = Field(5, ge=1, description="timed calls of each strategy, in turn with the others")
    warmup: int = Field(1, ge=0, description="calls of each strategy before the first timed one, besides the checks")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the tensors")
    timeout: float = Field(600.0, gt=0, allow_inf_nan=False, description="seconds that one call may take")
    output: str = Field(min_length=1, description="folder of the results")

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class."""
        mistakes = _mistakes_of_level(values) if {"level", "cases"} <= values.keys() else []
        if values.get("level") == Level.SERVICE.value and values.get("network") not in {None, NO_NETWORK}:
            mistakes.append("network: servers are measured on this machine's loopback: leave it out")
        if values.get("chunk") is not None and values.get("level") != Level.TEXT.value:
            mistakes.append(f"chunk: belongs to level {Level.TEXT.value}, whose prompts are computed in chunks")
        comparisons = _count(values)
        if comparisons > _MOST_COMPARISONS:
            mistakes.append(
                f"the axes make {comparisons} combinations, more than the {_MOST_COMPARISONS} of a sweep: name fewer "
                "values, or list 'cases'"
            )
        if not {"ranks", "network"} <= values.keys() or values["network"] in {None, NO_NETWORK}:
            return mistakes
        try:
            hosts = len(load_network(values["network"]).hosts)
            asked = [*_several(values["ranks"] or ())]
        except (ConfigurationError, ValueError):
            return mistakes  # said already
        most = max((ranks for ranks in asked if isinstance(ranks, int)), default=0)
        if most > hosts:
            mistakes.append(
                f"ranks: {most} do not fit into network {shown(values['network'])}: each has a host of its own, and "
                f"there are {hosts}"
            )
        return mistakes

    @property
    def emulated(self) -> Network | None:
        """The network that the ranks run in; ``None`` for this machine's own."""
        return None if self.network == NO_NETWORK else load_network(self.network)

    def comparisons(self) -> dict[CallShape, tuple[Case, ...]]:
        """The cases, those of one problem together, none twice; what refuses its problem among them."""
        found: dict[CallShape, dict[Case, None]] = {}
        for axes in self.cases or (Axes(),):
            strategies = axes.strategies if axes.strategies is not None else self.strategies
            for shape in self._shapes(axes):
                for name in strategies:
                    found.setdefault(shape, {})[Case(shape, Strategy.parse(name))] = None
        return {shape: tuple(cases) for shape, cases in found.items()}

    def _shapes(self, axes: Axes) -> list[CallShape]:
        def chosen(name: str) -> Any:
            said = (getattr(axes, name), getattr(self, name), _AXES[Level(self.level)].get(name))
            return next((values for values in said if values is not None), ())

        if self.level == Level.PIPELINE.value:
            axes_of_scenes = ("ranks", "models", "sizes", "steps", "dtype")
            said = (self.prompt,), (self.guidance,)
            return [WorkloadShape.of(*values) for values in product(*map(chosen, axes_of_scenes), *said)]
        if self.level == Level.SERVICE.value:
            ranks, models, steps, dtypes, rates = map(chosen, ("ranks", "models", "steps", "dtype", "rates"))
            mixed = ((chosen("sizes")),)
            said = (self.prompt,), (self.guidance,)
            axes_of_services = product(ranks, models, mixed, steps, dtypes, *said, rates, (self.requests,))
            return [ServiceShape.of(*values) for values in axes_of_services]
        if self.level == Level.TEXT.value:
            axes_of_texts = ("ranks", "models", "tokens", "queries", "batch", "dtype")
            shapes = (TextShape.of(*values) for values in product(*map(chosen, axes_of_texts)))
            return [replace(shape, answer=self.answer, text_file=self.text_file, chunk=self.chunk) for shape in shapes]
        axes_of_calls = ("ranks", "tokens", "queries", "heads", "head_dim", "batch", "dtype")
        return [
            CallShape(ranks, tokens, None if queries == tokens else queries, *rest)
            for ranks, tokens, queries, *rest in product(*map(chosen, axes_of_calls))
        ]


def _count(values: Mapping[str, Any]) -> int:
    """How many problems a sweep has at most."""
    axes = [name for name in Axes.model_fields if name != "strategies"]
    whole = {name: len(_several(values[name])) for name in axes if values.get(name) not in (None, (), [])}
    cases = values.get("cases")
    each = [
        {**whole, **{name: len(_several(value)) for name, value in _said(case).items() if name in axes and value}}
        for case in ([{}] if cases in (None, (), []) else _several(cases))
    ]
    return sum(math.prod(lengths.values()) for lengths in each)


def _said(case: Any) -> dict[str, Any]:
    """The axes that one of ``cases`` changes, as they were written or as they were read."""
    if isinstance(case, Axes):
        return case.model_dump(exclude_none=True)
    return case if isinstance(case, dict) else {}


def _mistakes_of_level(values: Mapping[str, Any]) -> list[str]:
    """Axes of the other level, and those without which there is nothing to measure."""
    level = Level(values["level"])
    others: dict[str, list[str]] = {}
    for other, axes in _AXES.items():
        for name in axes.keys() - _AXES[level].keys():
            others.setdefault(name, []).append(other.value)
    cases = [_said(case) for case in (() if values["cases"] is None else _several(values["cases"]))]
    mistakes = []
    for name, levels in sorted(others.items()):
        if values.get(name) is not None or any(case.get(name) is not None for case in cases):
            mistakes.append(f"{name}: belongs to level {' or '.join(levels)}, and this sweep has level {level.value}")
    for name, default in _AXES[level].items():
        said = name not in values or values[name] is not None  # what is wrong was said too
        if not said and default is None and not (cases and all(case.get(name) is not None for case in cases)):
            mistakes.append(f"{name}: is missing; {SweepConfig.model_fields[name].description}")
    return mistakes


def inspect_models(config: SweepConfig) -> list[str]:
    """Look at the models that a sweep names; of those to be loaded the configuration files are read.

    Returns:
        What is wrong with them.

    Raises:
        ModelUnreachableError: One is not here, and the hub cannot be asked.
    """
    mistakes = []
    unreachable: ModelUnreachableError | None = None
    named = [axes.models or () for axes in config.cases or ()]
    for name in dict.fromkeys([*(config.models or ()), *(name for names in named for name in names)]):
        try:
            (text_model if config.level == Level.TEXT.value else flux_model)(name)
        except ModelUnreachableError as error:
            unreachable = error
        except TokenRingError as error:
            mistakes.append(f"models: {error}")
    if unreachable is not None and not mistakes:
        raise unreachable
    return mistakes
