"""``tokenring-xdit compare``: a sweep of one picture, with its results side by side as pictures; or of one text."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tokenring_xdit.bench import Pixels, Record, Status, Strategy, SweepConfig
from tokenring_xdit.bench.sheet import Panel, contact_sheet
from tokenring_xdit.bench.workload import flux_model
from tokenring_xdit.cli.arguments.compare import OF_PICTURES, OF_TEXTS
from tokenring_xdit.cli.compare_text import compare_texts, is_language_model
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.cli.sweeps import comparison, refuse_failed, run_shown
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.pipelines.request import save

__all__ = ["compare_command"]


def compare_command(args: argparse.Namespace) -> None:
    """Draw a picture with every strategy, and lay the results side by side."""
    if args.ranks < 2:
        raise ConfigurationError(f"--ranks {args.ranks}: a comparison needs 2 ranks or more")
    text = args.context is not None or is_language_model(args.model)
    own, others = (OF_TEXTS, OF_PICTURES) if text else (OF_PICTURES, OF_TEXTS)
    strange = [f"--{name.replace('_', '-')}" for name in others if getattr(args, name) is not None]
    if strange:
        kind = "a language model" if text else "a model of pictures"
        raise ConfigurationError(f"{', '.join(strange)} cannot be combined with {args.model}, {kind}: leave it out")
    for name, value in own.items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    if text:
        compare_texts(args)
        return
    output = _png_path(args.output or "outputs/compare.png")
    names = {
        "one rank": "single",
        "Ulysses": "ulysses",
        "Ring": "xfuser-ring",
        "TokenRing": f"schedule:{args.schedule}",
    }
    pictures: dict[str, Pixels] = {}
    with tempfile.TemporaryDirectory(prefix="tokenring-xdit-") as folder:
        config = _sweep(args, list(names.values()), folder)
        _refuse(config)

        def keep(strategy: Strategy, pixels: Pixels) -> None:
            pictures[str(strategy)] = pixels

        outcome = run_shown("compare", config, args, on_picture=keep, traces=False)
    refuse_failed(outcome.records, Status.FAILED)
    found = {record.strategy: record for record in outcome.records}
    # Strategies are in the order in which they were named.
    records = dict(zip(names, (found[strategy] for strategy in config.strategies), strict=True))
    report = {
        "prompt": config.prompt,
        "strategies": [{"name": name, **record.model_dump(mode="json")} for name, record in records.items()],
    }
    save(_sheet(config, records, pictures), output)
    write_whole(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    print(json.dumps(report) if args.json else _summary(output, records))


def _sweep(args: argparse.Namespace, strategies: list[str], folder: str) -> SweepConfig:
    """The sweep that the command line says."""
    said = {
        "level": "pipeline",
        "strategies": json.dumps(strategies),
        "models": args.model,
        "sizes": args.size or str(flux_model(args.model).default_size),
        "output": folder,
    }
    if not args.prompt.strip():
        raise ConfigurationError("the prompt is empty")
    return comparison(args, ("prompt", "steps", "guidance"), said)


def _refuse(config: SweepConfig) -> None:
    """Refuse what TokenRing cannot draw; what of the others cannot is shown beside it."""
    (cases,) = config.comparisons().values()
    refusal = cases[-1].refusal()
    if refusal is not None:
        raise UnsupportedError(refusal)


def _png_path(text: str) -> Path:
    """Check that a PNG can be written there, before anything is generated."""
    path = Path(text).resolve()
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"--output {text}: a PNG is written, so the name has to end in .png")
    refuse_unwritable(path, f"--output {text}")
    return path


def _sheet(config: SweepConfig, records: dict[str, Record], pictures: dict[str, Pixels]) -> Any:
    panels = [Panel(name, pictures.get(record.strategy), tuple(_figures(record))) for name, record in records.items()]
    first = next(iter(records.values()))
    where = f"Device: {first.machine['device']}"
    if first.machine["device"] == "cpu":
        where = "CPU ranks of one machine over gloo: the times say nothing about GPUs"
    footnote = (
        f"{first.ranks} ranks, {first.size} pixels, {first.steps} steps, seed {first.seed}, {first.dtype}, medians of "
        f"{first.rounds} rounds by turns. Bytes: attention payload of one picture. {where}."
    )
    return contact_sheet(f"\u201c{config.prompt}\u201d", panels, footnote)


def _figures(record: Record) -> list[str]:
    if record.seconds is None or record.bytes_sent is None:
        return ["refused:", record.error or ""]
    lines = [f"{record.seconds.median * 1e3:.1f} ms a step"]
    if record.strategy == "single":
        return [*lines, "the reference: unmodified diffusers"]
    low, high = min(record.bytes_sent) / 1e6, max(record.bytes_sent) / 1e6
    lines.append(f"each rank sent {high:.2f} MB" if low == high else f"ranks sent {low:.2f} to {high:.2f} MB")
    return [*lines, f"differs by {record.max_error:.1e} (latents)"]


def _summary(output: Path, records: dict[str, Record]) -> str:
    lines = [f"contact sheet: {output}", f"figures:       {output.with_suffix('.json')}"]
    lines += [f"  {name:<10} {', '.join(_figures(record)).replace(':, ', ': ')}" for name, record in records.items()]
    return "\n".join(lines)
