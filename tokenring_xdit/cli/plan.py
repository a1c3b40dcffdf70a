"""``tokenring-xdit plan``: which strategy to take; ``tokenring-xdit simulate``: how one schedule goes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from tokenring_xdit.cli.machine import figure_lines, figures_of, machine_of, problem_of, topology_of
from tokenring_xdit.cli.plan_text import plan_texts
from tokenring_xdit.cli.progress import progress
from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.hosts.models import model_shapes
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES
from tokenring_xdit.messages import shown
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.planning import TIE, ModelShape, Option, Problem, plan, simulate
from tokenring_xdit.schedule import Activity, Mask, build, perfetto

__all__ = ["plan_command", "simulate_command"]

_SHOWN = 10


def plan_command(args: argparse.Namespace) -> None:
    """Print every split of the ranks, the best first."""
    if args.model in LANGUAGE_SHAPES:
        plan_texts(args)
        return
    if args.cached is not None:
        raise ConfigurationError(
            f"--cached is about language models: name one with --model, of {', '.join(LANGUAGE_SHAPES)}"
        )
    if args.model is not None and args.model not in model_shapes():
        known = [*model_shapes(), *LANGUAGE_SHAPES]
        raise ConfigurationError(f"there is no model {shown(args.model)} to plan for. {nearest(args.model, known)}")
    topology, ranks = topology_of(args)
    problem, model = problem_of(args, ranks)
    machine, effects, source = machine_of(args, topology, problem)
    with progress("plan") as show:  # 64 ranks take a minute
        options = plan(problem, topology, machine, effects, xfuser_ring=model is None or model.ring, on_split=show)
    if args.json:
        content = {
            "problem": asdict(problem),
            "topology": args.topology,
            "machine": asdict(machine),
            "figures": [figure.to_dict() for figure in figures_of(args, topology, machine)],
            "tie": TIE,
            "best": {"name": str(options[0].dims), "flags": options[0].dims.flags, "why": options[0].why},
            "options": [_as_json(option) for option in options],
        }
        print(json.dumps(content))
        return
    print(f"{_about(problem)}, over {args.topology}; kernel {source}. Predicted, not measured.")
    print("\n".join(figure_lines(figures_of(args, topology, machine))))
    print("\n".join(_table(options, model, None if args.all else _SHOWN)))


def _as_json(option: Option) -> dict[str, object]:
    dims = asdict(option.dims) | {"mask": option.dims.mask.value}
    return {"name": str(option.dims), **asdict(option), "dims": dims, "flags": option.dims.flags}


def _about(problem: Problem) -> str:
    queries, keys = sum(problem.q_lengths), sum(problem.kv_lengths)
    tokens = f"{keys} tokens" if queries == keys else f"{queries} queries, {keys} keys"
    heads = f"{problem.heads}" if problem.heads == problem.kv_heads else f"{problem.heads} ({problem.kv_heads} of keys)"
    return f"{tokens}, {heads} heads of {problem.head_dim}, batch {problem.batch}, {problem.ranks} ranks"


def _table(options: Sequence[Option], model: ModelShape | None, shown: int | None) -> list[str]:
    legal = [option for option in options if option.seconds is not None]
    listed = legal[:shown]
    listed += [option for option in legal if option not in listed and option.dims.tokenring == 1]  # to compare with
    width = max(len(str(option.dims)) for option in options)
    step = "  s a step" if model is not None else ""
    lines = [f"  {'split':<{width}}  {'ms a call':>9}{step}  {'exposed':>7}  {'MB sent':>8}  {'MB held':>8}"]
    for option in listed:
        seconds, exposed = option.seconds or 0.0, option.exposed or 0.0
        sent, memory = option.sent or 0, option.memory or 0
        mark = "*" if option is legal[0] else " "
        per_step = f"  {seconds * model.calls:8.3f}" if model is not None else ""
        lines.append(
            f"{mark} {option.dims!s:<{width}}  {seconds * 1e3:9.3f}{per_step}  {exposed * 1e3:7.3f}  "
            f"{sent / 1e6:8.2f}  {memory / 1e6:8.2f}"
        )
    if len(listed) < len(legal):
        lines.append(f"  and {len(legal) - len(listed)} more (--all)")
    lines += [f"  {option.dims!s:<{width}}  no: {option.refusal}" for option in options if option.seconds is None]
    bound = sum(bool(option.launch) and option.launch == option.seconds for option in listed)
    if bound:
        lines.append(
            f"  launch-bound: {bound} of those listed take as long as the host needs to launch them; "
            "--cuda-graphs avoids that"
        )
    return [*lines, f"* {legal[0].why}", f"best: {legal[0].dims.flags or 'one rank'}"]


def simulate_command(args: argparse.Namespace) -> None:
    """Print the course of one attention call."""
    topology, ranks = topology_of(args)
    problem, _ = problem_of(args, ranks)
    mask = Mask.CAUSAL if args.causal else Mask.FULL
    verified = build(args.schedule, ranks, mask, problem.kv_heads)
    machine, effects, source = machine_of(args, topology, problem)
    simulation = simulate(verified, topology, problem, machine, effects)
    if args.trace is not None:
        write_whole(args.trace, json.dumps(perfetto([simulation.timeline])))
    if args.json:
        links = [
            {"from": a, "to": b, "bytes": size, "busy": simulation.link_busy[a, b]}
            for (a, b), size in simulation.link_bytes.items()
        ]
        content = {
            "seconds": simulation.makespan,
            "exposed_seconds": simulation.exposed,
            "launch_seconds": simulation.launch,
            "bytes_sent": simulation.sent,
            "links": links,
            "timeline": simulation.timeline.to_dict(),
        }
        print(json.dumps(content))
        return
    print(f"{verified.schedule.name}: {_about(problem)}, over {args.topology}; kernel {source}")
    print(
        f"predicted {simulation.makespan * 1e3:.3f} ms, of which {simulation.exposed * 1e3:.3f} ms "
        "are exposed communication"
    )
    if simulation.launch:
        print(f"  the host takes {simulation.launch * 1e3:.3f} ms to launch it; --cuda-graphs leaves that out")
    for rank in range(ranks):
        parts = [
            f"{activity.value} {simulation.timeline.busy(rank, activity) * 1e3:.3f} ms"
            for activity in (Activity.ATTEND, Activity.MERGE, Activity.WAIT)
        ]
        print(f"  rank {rank}: {', '.join(parts)}; sends {simulation.sent[rank] / 1e6:.2f} MB")
    busiest = max(simulation.link_busy, key=simulation.link_busy.__getitem__, default=None)
    if busiest is not None:
        share, size = simulation.link_busy[busiest], simulation.link_bytes[busiest]
        print(f"  busiest link: {busiest[0]} to {busiest[1]}, {size / 1e6:.2f} MB, busy {share:.0%} of the time")
    if args.trace is not None:
        print(f"timeline: {args.trace}")
