"""A sweep as a YAML file says it, and the cases that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tokenring_xdit.bench.plan import Case, Shape, Strategy
from tokenring_xdit.config import Config
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.network import Network, load_network

__all__ = ["Axes", "SweepConfig"]

NO_NETWORK = "none"
"""How a sweep says that its ranks meet over this machine's own loopback."""

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _several(value: Any) -> Any:
    """A list where one value stands for a list of one."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError("the list is empty")
    return tuple(values)


def _strategies(value: Any) -> Any:
    names = []
    for name in _several(value):
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is not the name of a strategy")
        try:
            names.append(str(Strategy.parse(name)))
        except TokenRingError as error:
            raise ValueError(str(error)) from error
    return tuple(names)


def _dtypes(value: Any) -> Any:
    return tuple(_DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype for dtype in _several(value))


def _network(value: Any) -> Any:
    if value is None:
        return NO_NETWORK
    if isinstance(value, str) and value != NO_NETWORK:
        try:
            load_network(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
    return value


def _one_or_many(items: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [items, {"type": "array", "items": items}]})


_COUNT = {"type": "integer", "minimum": 1}
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several), _one_or_many(_COUNT)]
Strategies = Annotated[tuple[str, ...], BeforeValidator(_strategies), _one_or_many({"type": "string"})]
Dtypes = Annotated[
    tuple[Literal["float32", "bfloat16", "float16"], ...],
    BeforeValidator(_dtypes),
    _one_or_many({"type": "string"}),
]


class Axes(BaseModel):
    """Values that replace those of the sweep in one of its ``cases``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    strategies: Strategies | None = None
    ranks: Counts | None = None
    tokens: Counts | None = None
    heads: Counts | None = None
    head_dim: Counts | None = None
    batch: Counts | None = None
    dtype: Dtypes | None = None


class SweepConfig(Config):
    """A sweep. Axes take one value or a list; every combination of them is a comparison of all strategies."""

    strategies: Strategies = Field(description="single, ulysses, xfuser-ring, xfuser-ring-alltoall, schedule:NAME")
    ranks: Counts = Field(description="ranks that share the sequence")
    tokens: Counts = Field(description="length of the whole sequence")
    heads: Counts = Field((8,), description="heads of queries, keys and values")
    head_dim: Counts = Field((64,), description="width of a head")
    batch: Counts = Field((1,), description="items of a batch")
    dtype: Dtypes = Field(("float32",), description="float32, bfloat16 or float16")
    cases: Annotated[tuple[Axes, ...], BeforeValidator(_several)] | None = Field(
        None, description="list of changes to these axes, each with combinations of its own, in place of the above"
    )
    network: Annotated[str, BeforeValidator(_network)] = Field(
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
        if not {"ranks", "network"} <= values.keys() or values["network"] in {None, NO_NETWORK}:
            return []
        try:
            hosts = len(load_network(values["network"]).hosts)
            asked = [*_several(values["ranks"] or ())]
        except (ConfigurationError, ValueError):
            return []  # said already
        most = max((ranks for ranks in asked if isinstance(ranks, int)), default=0)
        if most > hosts:
            return [
                f"ranks: {most} do not fit into network '{values['network']}': each has a host of its own, and there "
                f"are {hosts}"
            ]
        return []

    @property
    def emulated(self) -> Network | None:
        """The network that the ranks run in; ``None`` for this machine's own."""
        return None if self.network == NO_NETWORK else load_network(self.network)

    def comparisons(self) -> dict[Shape, tuple[Case, ...]]:
        """The cases, those of one problem together, none twice; what refuses its problem among them."""
        found: dict[Shape, dict[Case, None]] = {}
        for axes in self.cases or (Axes(),):
            chosen = [
                getattr(axes, name) if getattr(axes, name) is not None else getattr(self, name)
                for name in ("ranks", "tokens", "heads", "head_dim", "batch", "dtype")
            ]
            strategies = axes.strategies if axes.strategies is not None else self.strategies
            for values in product(*chosen):
                shape = Shape(*values)
                for name in strategies:
                    found.setdefault(shape, {})[Case(shape, Strategy.parse(name))] = None
        return {shape: tuple(cases) for shape, cases in found.items()}
