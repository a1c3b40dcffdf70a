"""``tokenring-xdit compare`` of a language model: a sweep of one text, one process against ranks that share it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenring_xdit.bench import Record, Status
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.cli.sweeps import comparison, refuse_failed, run_shown
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.pipelines.text_models import SMOLLM2, beyond_context, context_length, load_tokenizer
from tokenring_xdit.pipelines.text_run import read_text

__all__ = ["compare_texts", "is_language_model"]

_STRATEGIES = ("single", "balanced", "pass-kv", "pass-q")


def is_language_model(name: str) -> bool:
    """Whether a name is that of a language model, as far as that can be seen on this machine."""
    folder = Path(name)
    return name == SMOLLM2 or ((folder / "config.json").is_file() and not (folder / "model_index.json").exists())


def compare_texts(args: argparse.Namespace) -> None:
    """Compute a text in one process and over ranks, and say how far they are apart."""
    output = Path(args.output or "outputs/compare.json").resolve()
    if output.suffix != ".json":
        raise ConfigurationError(f"--output {args.output}: of a language model a JSON is written, so use NAME.json")
    refuse_unwritable(output, f"--output {output}")
    context = "" if args.context is None else read_text("--context", args.context)
    text = f"{context}\n\n{args.prompt}" if context else args.prompt
    tokens = load_tokenizer(args.model)(text, return_tensors="pt").input_ids.shape[1]
    if not tokens:
        raise ConfigurationError("the text is empty")
    with tempfile.TemporaryDirectory(prefix="tokenring-xdit-") as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text, encoding="utf-8")
        said = {
            "level": "text",
            "strategies": json.dumps(_STRATEGIES),
            "models": json.dumps([args.model]),  # whatever a folder is called
            "tokens": tokens,
            "text_file": str(file),
            "answer": args.max_new_tokens,
            "output": folder,
        }
        config = comparison(args, (), said)
        beyond = beyond_context(args.model, tokens + config.answer, context_length(args.model))
        if beyond is not None:
            print(beyond, file=sys.stderr)
        outcome = run_shown("compare", config, args, traces=False)
    refuse_failed(outcome.records, Status.FAILED, Status.REFUSED)
    records = sorted(outcome.records, key=lambda record: config.strategies.index(record.strategy))
    report = {"prompt": args.prompt, "context": args.context, "strategies": [_plain(record) for record in records]}
    write_whole(output, json.dumps(report, indent=2) + "\n")
    print(json.dumps(report) if args.json else _summary(args, output, records))


def _plain(record: Record) -> dict[str, Any]:
    return {"name": record.strategy, **record.model_dump(mode="json", exclude={"text_file"})}


def _summary(args: argparse.Namespace, output: Path, records: list[Record]) -> str:
    first = records[0]
    lines = [f"{args.model}, {first.tokens} tokens, {first.dtype}, {first.ranks} ranks; figures: {output}"]
    for record in records:
        assert record.seconds is not None
        assert record.bytes_sent is not None
        assert record.keys_held is not None
        figures = [f"{record.seconds.median * 1e3:.1f} ms", f"keys of {max(record.keys_held)} tokens a rank"]
        if record is first:
            figures.append("the reference: the unmodified model in one process")
        else:
            figures.append(f"at most {max(record.bytes_sent) / 1e6:.2f} MB sent")
            figures.append(f"logits of all tokens differ by {record.max_error:.1e} of the largest")
        if record.same_answer is not None:
            figures.append(f"the same {record.answer} tokens" if record.same_answer else "OTHER TOKENS in its answer")
        lines.append(f"  {record.strategy:<9} {', '.join(figures)}")
    return "\n".join(lines)
