"""How attention grows with what is asked for: what the planner says of one way to divide ranks, sizes left open.

Speeds are those of no machine in particular, on one node: forecasts learn by how much real ones differ, and take from
here what a size takes against another one.
"""

from __future__ import annotations

from functools import lru_cache

from tokenring_xdit.model_shapes import ModelShape
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.machine import Machine
from tokenring_xdit.planning.planner import split_seconds
from tokenring_xdit.planning.simulate import run
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import Network, parse_network

__all__ = ["AttentionGrowth", "TextAttentionGrowth"]

_GPU, _GPU_LINK = 4e14, "1600gbit"
_CORE, _FOLD, _CORE_LINK = 3e10, 1e10, "20gbit"

_SIMULATED_RANKS = 16
"""Of more a simulation takes seconds, and the pairs of tokens have to do."""

_HEADS, _KEY_HEADS, _HEAD_DIM = 32, 8, 128
"""Of a language model: how its answers' lengths matter hardly depends on them."""

_USUAL = ModelShape(24, 128, calls=1, text=0)
"""Of models that nothing is written down of."""


class AttentionGrowth:
    """Seconds of an attention call of a denoising step, by pixels that are made together, up to a factor.

    Args:
        dims: How the ranks are divided.
        shape: Shape of the model; ``None`` where it is not known.
        gpus: Whether ranks have GPUs.
        element_bytes: Bytes of an element.
    """

    def __init__(self, dims: ParallelDims, shape: ModelShape | None, *, gpus: bool, element_bytes: int) -> None:
        self._dims, self._shape, self._bytes = dims, shape or _USUAL, element_bytes
        self._machine, self._network = _machine(gpus, dims.ranks), _network(gpus, dims.ranks)
        self._seconds = lru_cache(maxsize=1024)(self._simulated)

    def __call__(self, pixels: float) -> float:
        """Seconds."""
        shape, ranks = self._shape, self._dims.ranks
        tokens = round(pixels / shape.patch**2 / max(1, shape.frames)) + shape.text
        return self._seconds(max(1, -(-tokens // ranks)) * ranks)

    def _simulated(self, tokens: int) -> float:
        shape, ranks, ulysses = self._shape, self._dims.ranks, self._dims.ulysses
        if ranks > _SIMULATED_RANKS:
            return float(tokens) ** 2
        fit = shape.heads % ulysses == 0 and (shape.kv_heads or shape.heads) % ulysses == 0
        heads, kv_heads = (shape.heads, shape.kv_heads) if fit else (shape.heads * ulysses, None)
        problem = Problem.even(ranks, tokens, heads, shape.head_dim, kv_heads=kv_heads, element_bytes=self._bytes)
        seconds = split_seconds(problem, self._dims, self._network, self._machine)
        return float(tokens) ** 2 if seconds is None else seconds  # which is so for all sizes or none


class TextAttentionGrowth:
    """The same of a layer of a language model, by tokens.

    Args:
        ranks: That share its sequence.
        gpus: Whether they have GPUs.
        element_bytes: Bytes of an element.
    """

    def __init__(self, ranks: int, *, gpus: bool, element_bytes: int) -> None:
        self._ranks, self._bytes = ranks, element_bytes
        self._machine, self._network = _machine(gpus, ranks), _network(gpus, ranks)
        self._seconds = lru_cache(maxsize=1024)(self._simulated)

    def prefill(self, tokens: float) -> float:
        """Seconds of a prompt of this many tokens."""
        return self._seconds(0, max(self._ranks, round(tokens)), Way.KEYS)

    def decode(self, tokens: float) -> float:
        """Seconds of the next token after this many."""
        return self._seconds(max(self._ranks, round(tokens)), 1, Way.OUTPUTS)

    def _simulated(self, past: int, new: int, way: Way) -> float:
        if self._ranks > _SIMULATED_RANKS:
            return float((past + new) * new)
        turn = LayerTurn(self._ranks, past, new, _HEADS, _KEY_HEADS, _HEAD_DIM, element_bytes=self._bytes)
        return run(way.value, turn.programs(way), self._network, self._machine).makespan


def _machine(gpus: bool, ranks: int) -> Machine:
    return Machine.of_gpus(_GPU) if gpus else Machine.of_processors(_CORE, _FOLD, cores=ranks)


def _network(gpus: bool, ranks: int) -> Network:
    return parse_network(f"mesh:{max(2, ranks)}:{_GPU_LINK if gpus else _CORE_LINK}")
