"""Print the table of docs/llm.md of prompts on many GPUs: predicted, nothing is run. Takes minutes, 1024 GPUs an hour.

python scripts/llm_scaling.py [MOST_GPUS]

Eight GPUs of a node share heads and weights (tensor parallelism of 8, as published systems have it); nodes share the
tokens with this package's context parallelism, each GPU over a NIC of its own at one switch. Attention of a layer is
simulated (:mod:`tokenring_xdit.planning`); what else a model computes takes its floating point operations, and tensor
parallelism two all-reduces a layer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tokenring_xdit.language_shapes import LanguageShape, language_shape
from tokenring_xdit.planning import Machine, Problem, run, simulate
from tokenring_xdit.planning.capacity import balanced_schedule
from tokenring_xdit.planning.layer_turn import LayerTurn
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule import Mask, build
from tokenring_xdit.topology import load_topology

RATE = 600e12
"""Floating point operations a second: of attention measured on one H100 (docs/gpu.md), of everything else assumed."""

NIC = "400gbit"
"""ConnectX-7, one direction: NVIDIA, DGX H100 datasheet."""

ALL_REDUCE = 360e9
"""Bytes a second inside a node, in long messages (docs/topologies.md)."""

SHARED = 8
"""GPUs of a node."""

LENGTHS = {"128k": 1 << 17, "1M": 1 << 20}

PUBLISHED = {
    ("llama-3.1-405b", "128k", 8): "60 s",
    ("llama-3.1-405b", "128k", 128): "3.8 s",
    ("llama-3.1-405b", "1M", 8): "1200 s",
    ("llama-3.1-405b", "1M", 128): "77 s, 93%",
}
"""Context Parallelism for Scalable Million-Token Inference, arXiv 2411.01783: H100, FP8 in the feed-forward layers."""


@dataclass(frozen=True)
class Predicted:
    """A prompt on some GPUs.

    Attributes:
        seconds: Of all layers.
        strategy: What attention does between nodes.
        exposed: Share of the time with exposed communication between nodes.
    """

    seconds: float
    strategy: str
    exposed: float


def predict(shape: LanguageShape, tokens: int, nodes: int) -> Predicted:
    """The time of a prompt.

    Args:
        shape: The model.
        tokens: Of the prompt.
        nodes: Nodes of eight GPUs.
    """
    heads, kv_heads = shape.heads // SHARED, max(1, shape.kv_heads // SHARED)
    others = 2.0 * (shape.weights - shape.vocabulary * shape.hidden) * tokens / (nodes * SHARED * RATE)
    reduced = 2 * shape.layers * (tokens / nodes) * shape.hidden * 2 * 2 * (SHARED - 1) / SHARED / ALL_REDUCE
    attention, name, exposed = attend(tokens, nodes, heads, kv_heads, shape.head_dim)
    seconds = shape.layers * attention + others + reduced
    return Predicted(seconds, name, shape.layers * exposed / seconds)


def attend(tokens: int, nodes: int, heads: int, kv_heads: int, head_dim: int) -> tuple[float, str, float]:
    """Seconds of a layer's attention, the strategy, and exposed seconds."""
    machine = Machine.of_gpus(RATE)
    if nodes == 1:
        return 4.0 * heads * head_dim * tokens * tokens / 2 / RATE, "one node", 0.0
    network = load_topology(f"star:{nodes}:{NIC}")
    turn = LayerTurn(nodes, 0, tokens, heads, kv_heads, head_dim)
    problem = Problem.even(nodes, tokens, heads, head_dim, kv_heads=kv_heads, element_bytes=2)
    balanced = build(balanced_schedule(), nodes, Mask.CAUSAL, kv_heads)
    found = [simulate(balanced, network, problem, machine)]
    found += [run(way.value, turn.programs(way), network, machine) for way in (Way.KEYS, Way.QUERIES)]
    best = min(found, key=lambda simulation: simulation.makespan)
    return best.makespan, best.name, best.exposed


def main() -> None:
    """Print the table."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    print("| model | tokens | GPUs | predicted | efficiency | between nodes | exposed | published |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"):
        for name, tokens in LENGTHS.items():
            alone = 0.0
            for nodes in (n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n * SHARED <= most):
                found = predict(language_shape(model), tokens, nodes)
                alone = alone or found.seconds
                published = PUBLISHED.get((model, name, nodes * SHARED), "")
                efficiency = alone / nodes / found.seconds
                print(
                    f"| {model} | {name} | {nodes * SHARED} | {found.seconds:.3g} s | {efficiency:.0%} | "
                    f"{found.strategy} | {found.exposed:.0%} | {published} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
