"""``tokenring-xdit plan`` of a language model: what each phase sends and takes, and which strategy it has."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass

from tokenring_xdit.cli.machine import figure_lines, machine_of, topology_of
from tokenring_xdit.dtypes import DTYPE_BYTES
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import language_shape
from tokenring_xdit.planning import TIE, Effects, Machine, Problem
from tokenring_xdit.planning.figures import Standing, figures
from tokenring_xdit.planning.layer_turn import LayerTurn, StrategyForecast
from tokenring_xdit.planning.many_ranks import MANY_RANKS
from tokenring_xdit.planning.phases import LanguagePhase, candidates, crossover, phase_of
from tokenring_xdit.topology import Network

__all__ = ["plan_texts"]

_MEASURED = {"hgx-h100": 600.0, "hgx-h200": 600.0}
"""TFLOP/s of the attention kernel in long calls, by default: of one H100 (docs/gpu.md)."""

_OF_PICTURES = ("size", "frames", "queries", "heads", "kv_heads", "head_dim")
"""What says nothing of a language model."""


@dataclass(frozen=True)
class _Planned:
    """A phase with all that is predicted of it, in layers of one kind.

    Attributes:
        turn: A layer of it.
        layers: How many layers are like it.
        found: Strategies, those of a parallel model first, each by time.
        crossing: For a next turn: number of new tokens from which on sending keys is better.
    """

    turn: LayerTurn
    layers: int
    found: tuple[StrategyForecast, ...]
    crossing: int | None

    @property
    def phase(self) -> LanguagePhase:
        """Which it is."""
        return phase_of(self.turn)


def plan_texts(args: argparse.Namespace) -> None:
    """Print each phase of a language model: a whole prompt, the next turn if some tokens are cached, and a step."""
    strange = [f"--{name.replace('_', '-')}" for name in _OF_PICTURES if getattr(args, name) is not None]
    if strange:
        raise ConfigurationError(f"{', '.join(strange)} says nothing of a language model, which {args.model} is")
    if args.tokens is None:
        raise ConfigurationError(
            f"--model {args.model} is a language model: say --tokens, and --cached for a next turn"
        )
    shape, cached = language_shape(args.model), args.cached or 0
    if args.tokens < 1 or cached >= args.tokens or args.batch < 1:
        raise ConfigurationError(
            f"--tokens {args.tokens} has to be 1 or more, and more than --cached {cached}; --batch 1 or more"
        )
    topology, ranks = topology_of(args)
    kernel = Standing.GIVEN
    if args.tflops is None:
        args.tflops = _MEASURED.get(args.topology.partition("*")[0])
        kernel = Standing.MEASURED_HERE if args.tflops is None else Standing.MEASURED
    problem = Problem.even(ranks, args.tokens, shape.heads, shape.head_dim, element_bytes=DTYPE_BYTES[args.dtype])
    machine, effects, source = machine_of(args, topology, problem)
    stands_on = figures(topology, machine, kernel)
    size = DTYPE_BYTES[args.dtype]
    planned = []
    for past, new in dict.fromkeys(((0, args.tokens), (cached, args.tokens - cached), (args.tokens, 1))):
        kinds = Counter(_cutting(window, args) for window in shape.windows)
        for window, layers in sorted(kinds.items(), key=lambda kind: kind[0] or 0):
            turn = LayerTurn(ranks, past, new, shape.heads, shape.kv_heads, shape.head_dim, args.batch, size, window)
            planned.append(_planned(turn, layers, topology, machine, effects))
    if args.json:
        print(
            json.dumps(
                {
                    "model": args.model,
                    "topology": args.topology,
                    "layers": shape.layers,
                    "bounds": ranks > MANY_RANKS,
                    "figures": [figure.to_dict() for figure in stands_on],
                    "phases": [
                        {
                            "phase": each.phase.value,
                            "layers": each.layers,
                            **asdict(each.turn),
                            "crossing": each.crossing,
                            "strategies": [asdict(one) for one in each.found],
                        }
                        for each in planned
                    ],
                }
            )
        )
        return
    print(
        f"{args.model}, {args.dtype}, batch {args.batch}, {ranks} rank{'s' * (ranks > 1)} over {args.topology}; "
        f"kernel {source}. Attention of {shape.layers} layers. Predicted, not measured. Exposed communication "
        "and bytes sent are those of a layer, on the rank with most."
        + (
            f" Of more than {MANY_RANKS} ranks times are what the busiest rank or link takes at least."
            if ranks > MANY_RANKS
            else ""
        )
    )
    print("\n".join(figure_lines(stands_on)))
    for each in planned:
        print("\n".join(_table(each, shape.layers)))


def _cutting(window: int | None, args: argparse.Namespace) -> int | None:
    """A window that leaves something out, of all tokens there are; others are none."""
    return None if window is None or window > args.tokens else window


def _planned(turn: LayerTurn, layers: int, topology: Network, machine: Machine, effects: Effects) -> _Planned:
    found = candidates(turn, topology, machine, effects)
    turns = phase_of(turn) is LanguagePhase.TURN and turn.window is None
    crossing = crossover(turn, topology, machine, effects) if turns else None
    return _Planned(turn, layers, found, crossing)


def _table(planned: _Planned, of_all: int) -> list[str]:
    turn, found, layers = planned.turn, planned.found, planned.layers
    behind = f" behind {turn.past} cached" if turn.past else ""
    tokens = "1 token" if turn.new == 1 else f"{turn.new} tokens"
    width = max(len(candidate.name) for candidate in found)
    window = "" if turn.window is None else f" with a window of {turn.window}"
    which = f", {layers} of {of_all} layers{window}" if layers < of_all or window else ""
    lines = [
        f"{planned.phase.value}: {tokens}{behind}{which}",
        f"  {'strategy':<{width}}  {'ms a layer':>10}  {'ms exposed':>10}  {'MB sent':>9}  {'s, all layers':>13}",
    ]
    for candidate in found:
        mark = "*" if candidate is found[0] else " "
        lines.append(
            f"{mark} {candidate.name:<{width}}  {candidate.seconds * 1e3:10.3f}  {candidate.exposed * 1e3:10.3f}  "
            f"{candidate.sent / 1e6:9.2f}  {candidate.seconds * layers:13.3f}"
            + ("" if candidate.ours else "  (not of this package)")
        )
    return [*lines, f"* {_why(planned)}"]


def _why(planned: _Planned) -> str:
    turn, best = planned.turn, planned.found[0]
    ours = [candidate for candidate in planned.found if candidate.ours]
    if turn.ranks == 1:
        return "one rank has all keys, and sends nothing"
    if planned.phase is LanguagePhase.STEP:
        return "all ranks have the query already, and gather partial outputs once: keys stay on their ranks"
    if turn.window is not None:
        return "a window: only keys of the tokens just before a rank's own are needed, and what is less of both travels"
    slower = ""
    if ours[1:]:
        change = ours[1].seconds / best.seconds - 1
        slower = f"; the next, {ours[1].name}, takes {change:+.1%}"
        if abs(change) <= TIE:
            times = ours[1].sent / best.sent
            much = "as much" if round(times, 2) == 1 else f"{times:.2f} times as much"
            slower += f", which a simulation cannot tell apart, and sends {much}"
    if planned.phase is LanguagePhase.PROMPT:
        return f"the fastest of what a parallel model can do{slower}"
    total = turn.past + turn.new
    share = f"{turn.new / total:.1%} of the tokens are new, {turn.heads // turn.kv_heads} query heads share a key head"
    if planned.crossing is None:
        return f"{share}: queries are the better thing to send however many are new{slower}"
    return f"{share}: keys are the better thing to send from {planned.crossing / total:.1%} on{slower}"
