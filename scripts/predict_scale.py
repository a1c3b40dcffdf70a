"""Print the tables of docs/planner.md for machines that nobody here has: predicted, nothing is run. Takes minutes.

python scripts/predict_scale.py [MOST_RANKS]
"""

from __future__ import annotations

import sys

from tokenring_xdit.bench.plan import Shape, Strategy
from tokenring_xdit.bench.prediction import programs_of
from tokenring_xdit.planning import Cost, Problem, run
from tokenring_xdit.topology import load_topology

NODE = 8
TFLOPS = 645.0  # of cuDNN's kernel on an H100, bf16 (docs/gpu.md)
SHAPES = {
    "Flux, 2048 x 2048 pixels": (16896, 24, 128),
    "Wan 2.1 14B, 720p, 81 frames": (75600, 40, 128),
}
MOST_MESSAGES = 300_000
"""Of a strategy whose ranks send to all others: with more, the simulation takes too long."""


def strategies(ranks: int) -> list[str]:
    """What is compared; the first is what the others are compared with."""
    nodes = ranks // NODE
    within = ["schedule:heads", "schedule:heads:peers=1", "ulysses"] if ranks * ranks * 3 <= MOST_MESSAGES else []
    across = (
        []
        if nodes == 1
        else [
            "ulysses=8+xfuser-ring",
            "ulysses=8+schedule:token_ring",
            "ulysses=8+schedule:bidirectional",
            f"schedule:hierarchical:nodes={nodes}",
        ]
    )
    return ["xfuser-ring", "schedule:ring", "schedule:token_ring", "schedule:bidirectional", *within, *across]


def main() -> None:
    """Print a table for each shape."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    cost = Cost.of_gpus(TFLOPS * 1e12)
    for name, (tokens, heads, head_dim) in SHAPES.items():
        print(f"{name}: {tokens} tokens, {heads} heads of {head_dim}, bf16\n", flush=True)
        print("| ranks | xfuser's Ring, ms a call | fastest | ms | times faster | others, ms |")
        print("| --- | --- | --- | --- | --- | --- |")
        ranks = NODE
        while ranks <= most:
            network = load_topology("hgx-h100" if ranks == NODE else f"hgx-h100*{ranks // NODE}@ib-ndr")
            problem = Problem.even(ranks, tokens, heads, head_dim, element_bytes=2)
            shape = Shape(ranks, tokens, None, heads, head_dim, 1, "bfloat16")
            times = {}
            for text in strategies(ranks):
                strategy = Strategy.parse(text)
                programs = programs_of(strategy, problem, cost) if shape.refusal_of_degrees(strategy) is None else None
                if programs is not None:
                    times[text] = run(text, programs, network, cost).makespan * 1e3
            ring = times["xfuser-ring"]
            best, *others = sorted(times, key=lambda text: times[text])
            rest = ", ".join(f"`{text}` {times[text]:.2f}" for text in others if text != "xfuser-ring")
            row = f"| {ranks} | {ring:.2f} | `{best}` | {times[best]:.2f} | {ring / times[best]:.2f} | {rest} |"
            print(row, flush=True)
            ranks *= 2
        print()


if __name__ == "__main__":
    main()
