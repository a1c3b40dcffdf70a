"""Print what the tables of docs/planner.md are taken from, for machines that nobody here has.

Everything is predicted, nothing is run. Takes minutes.

python scripts/predict_scale.py [MOST_RANKS]
"""

from __future__ import annotations

import gc
import sys

from tokenring_xdit.bench.plan import CallShape, Strategy
from tokenring_xdit.bench.prediction import programs_of
from tokenring_xdit.planning import Machine, Problem, run
from tokenring_xdit.topology import load_topology

NODE = 8
TFLOPS = 678.0  # of cuDNN's kernel on an H100 in long calls, bf16 (docs/gpu.md)
SHAPES = {
    "Flux, 2048 x 2048 pixels": (16896, 24, 128),
    "Wan 2.1 14B, 720p, 81 frames": (75600, 40, 128),
}
MOST_MESSAGES = 1_200_000
"""Of a strategy that is simulated: about two minutes."""


def strategies(ranks: int) -> list[str]:
    """What is compared; the first is what the others are compared with."""
    pairs = ranks * (ranks - 1)
    alone = {"xfuser-ring": 1, "schedule:ring": 1, "schedule:token_ring": 2, "schedule:bidirectional": 2}
    few = dict.fromkeys(("ulysses", "schedule:heads", "schedule:heads:peers=1"), 100)  # up to 64 ranks: all at once
    nodes = ranks // NODE
    hybrid = {
        "ulysses=8+xfuser-ring": 1,
        "ulysses=8+schedule:token_ring": 2,
        "ulysses=8+schedule:bidirectional": 2,
        f"schedule:hierarchical:nodes={nodes}": 2 * NODE,
    }
    sent = {**alone, **few} | ({name: count / NODE for name, count in hybrid.items()} if nodes > 1 else {})
    return [name for name, count in sent.items() if count * pairs <= MOST_MESSAGES]


def main() -> None:
    """Print a table for each shape."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    for name, (tokens, heads, head_dim) in SHAPES.items():
        print(f"{name}: {tokens} tokens, {heads} heads of {head_dim}, bf16\n", flush=True)
        print("| ranks | xfuser's Ring, ms | fastest | times faster | captured: Ring | fastest | times faster | all |")
        print("|" + " --- |" * 8)
        ranks = NODE
        while ranks <= most:
            print(row(ranks, CallShape(ranks, tokens, None, heads, head_dim, 1, "bfloat16")), flush=True)
            ranks *= 2
        print()


def row(ranks: int, shape: CallShape) -> str:
    """A line of the table."""
    machine = Machine.of_gpus(TFLOPS * 1e12)
    network = load_topology("hgx-h100" if ranks == NODE else f"hgx-h100*{ranks // NODE}@ib-ndr")
    problem = Problem.even(ranks, shape.tokens, shape.heads, shape.head_dim, element_bytes=2)
    launched: dict[str, float] = {}
    captured: dict[str, float] = {}
    for text in strategies(ranks):
        strategy = Strategy.parse(text)
        programs = (
            programs_of(strategy, problem, in_order=machine.in_order)
            if shape.refusal_of_degrees(strategy) is None
            else None
        )
        if programs is not None:
            simulation = run(text, programs, network, machine)
            launched[text], captured[text] = simulation.makespan * 1e3, simulation.work * 1e3
    cells = [str(ranks)]
    for times in (launched, captured):
        best, ring = min(times, key=lambda text: times[text]), times["xfuser-ring"]
        cells += [f"{ring:.2f}", f"`{best}` {times[best]:.2f}", f"{ring / times[best]:.2f}"]
    order = sorted(captured, key=lambda text: captured[text])
    cells.append(", ".join(f"`{text}` {launched[text]:.2f} / {captured[text]:.2f}" for text in order))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    gc.disable()  # there is nothing but objects that live until the simulation is over
    main()
