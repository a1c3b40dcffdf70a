"""``tokenring-xdit score``: how likely a language model finds a long text that is sharded over ranks."""

from __future__ import annotations

import argparse
import json
import math
import sys

from tokenring_xdit.cli.text import refuse_below_one
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.devices import default_dtype, refuse_missing_gpus
from tokenring_xdit.pipelines.text_models import beyond_context, refuse_model
from tokenring_xdit.pipelines.text_orders import LoadText, ScoreText, TextScore
from tokenring_xdit.pipelines.text_run import read_text
from tokenring_xdit.workers.pool import WorkerPool

__all__ = ["score_command"]


def score_command(args: argparse.Namespace) -> None:
    """Print log-probability and perplexity of a file."""
    refuse_below_one(args, "ranks")
    text = read_text("FILE", args.file)
    refuse_model(args.model)
    check_versions()
    refuse_missing_gpus(args.ranks)
    with WorkerPool("tokenring_xdit.pipelines.text_rank", args.ranks) as pool:
        pool.ask(LoadText(args.model, args.dtype or default_dtype()))
        scores: list[TextScore] = pool.ask(ScoreText(text))
    first, sent = scores[0], [score.bytes_sent for score in scores]
    beyond = beyond_context(args.model, first.tokens, first.context_length)
    if beyond is not None:
        print(beyond, file=sys.stderr)
    perplexity = math.exp(-first.log_probability / (first.tokens - 1))
    if args.json:
        figures = {"tokens": first.tokens, "log_probability": first.log_probability, "perplexity": perplexity}
        print(json.dumps({**figures, "bytes_sent": sent, "seconds": first.seconds}), flush=True)
        return
    print(f"tokens           {first.tokens}")
    print(f"log-probability  {first.log_probability:.4f}")
    print(f"perplexity       {perplexity:.4f}")
    print(f"seconds          {first.seconds:.1f}, on {args.ranks} rank{'s' * (args.ranks > 1)}")
