"""``tokenring-xdit compare``: the same picture from one rank, Ulysses, Ring and TokenRing."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from tokenring_xdit.cli.picture import picture_from, png_path
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.jobs import Candidate, CompareJob, Found, Picture
from tokenring_xdit.pipelines.launch import run_job
from tokenring_xdit.pipelines.model import FluxModel
from tokenring_xdit.pipelines.request import save
from tokenring_xdit.pipelines.sheet import Panel, contact_sheet

__all__ = ["compare_command"]


def compare_command(args: argparse.Namespace) -> None:
    """Draw a picture with every strategy, and lay the results side by side."""
    if args.rounds < 1 or args.ranks < 2:
        raise ConfigurationError("--rounds has to be at least 1, and --ranks at least 2")
    model, picture = picture_from(args)
    candidates = _candidates(args, model, picture)
    output = png_path(args.output)
    found = run_job(CompareJob(picture, candidates, args.rounds), args.ranks)
    report = _report(picture, candidates, found, args)
    _write_sheet(output, found, report)
    write_whole(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    print(json.dumps(report) if args.json else _summary(output, report))


def _candidates(args: argparse.Namespace, model: FluxModel, picture: Picture) -> tuple[Candidate, ...]:

    wanted = {
        "Ulysses": ParallelDims(ulysses=args.ranks),
        "Ring": ParallelDims(ring=args.ranks),
        "TokenRing": ParallelDims(tokenring=args.ranks, schedule=args.schedule),
    }
    candidates = []
    for name, degrees in wanted.items():
        try:
            model.check(degrees, picture.size)
        except TokenRingError as error:
            if name == "TokenRing":
                raise
            candidates.append(Candidate(name, degrees, str(error)))
        else:
            candidates.append(Candidate(name, degrees))
    return tuple(candidates)


def _report(
    picture: Picture, candidates: tuple[Candidate, ...], found: dict[str, Found], args: argparse.Namespace
) -> dict[str, Any]:
    """Everything that the comparison found, for programs to read."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "prompt": picture.prompt,
        "model": args.model or "embedded",
        "size": str(picture.size),
        "steps": picture.steps,
        "seed": picture.seed,
        "dtype": picture.dtype,
        "ranks": args.ranks,
        "rounds": args.rounds,
        "machine": {"gpu": gpu, "platform": platform.platform(), "torch": torch.__version__},
        "strategies": [
            {
                "name": name,
                **entry.figures,
                "ms_per_step": statistics.median(entry.figures["step_ms"]) if entry.figures["step_ms"] else None,
            }
            for name, entry in found.items()
        ]
        + [{"name": s.name, "refused": s.refusal} for s in candidates if s.refusal is not None],
    }


def _write_sheet(output: Path, found: dict[str, Found], report: dict[str, Any]) -> None:

    panels = []
    for entry in report["strategies"]:
        if "refused" in entry:
            panels.append(Panel(entry["name"], None, None, ("refused:", entry["refused"])))
            continue
        seen = found[entry["name"]]
        panels.append(Panel(entry["name"], seen.drawn.picture, seen.difference, _figures(entry)))
    where = report["machine"]["gpu"] or "CPU ranks of one machine over gloo: the times say nothing about GPUs"
    footnote = (
        f"{report['ranks']} ranks, {report['size']} pixels, {report['steps']} steps, seed {report['seed']}, "
        f"{report['dtype']}, medians of {report['rounds']} interleaved rounds (one rank: before them). "
        f"Bytes: attention payload of one picture. {where}."
    )
    save(contact_sheet(f"“{report['prompt']}”", panels, footnote), output)


def _figures(entry: dict[str, Any]) -> tuple[str, ...]:
    lines = [f"{entry['ms_per_step']:.1f} ms a step" if entry["ms_per_step"] is not None else "one step: no timing"]
    if "bytes_sent_per_rank" in entry:
        sent = entry["bytes_sent_per_rank"]
        low, high = min(sent) / 1e6, max(sent) / 1e6
        lines.append(f"each rank sent {high:.2f} MB" if low == high else f"ranks sent {low:.2f} to {high:.2f} MB")
        lines.append(f"differs by {entry['max_relative_difference']:.1e} (latents)")
    else:
        lines.append("the reference: unmodified diffusers")
    return tuple(lines)


def _summary(output: Path, report: dict[str, Any]) -> str:
    lines = [f"contact sheet: {output}", f"figures:       {output.with_suffix('.json')}"]
    for entry in report["strategies"]:
        figures = f"refused: {entry['refused']}" if "refused" in entry else ", ".join(_figures(entry))
        lines.append(f"  {entry['name']:<10} {figures}")
    return "\n".join(lines)
