"""``tokenring-xdit ask``: questions to a language model about a text that is sharded over ranks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from tokenring_xdit.cli.text import refuse_below_one
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.pipelines.pending import Reply
from tokenring_xdit.pipelines.text_engine import checked_question
from tokenring_xdit.pipelines.text_models import refuse_model
from tokenring_xdit.pipelines.text_run import read_text

__all__ = ["ask_command"]

_PROMPT = "> "


def ask_command(args: argparse.Namespace) -> None:
    """Answer a question, or questions line by line."""
    refuse_below_one(args, "ranks", "max_new_tokens", "tokens_per_rank")
    context = "" if args.context is None else read_text("--context", args.context)
    options = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed}
    checked_question("?" if args.question is None else args.question, **options)
    refuse_model(args.model)  # before a pipeline that draws would load
    with Engine(
        args.model, tokenring_degree=args.ranks, dtype=args.dtype, tokens_per_rank=args.tokens_per_rank
    ) as engine:
        chat = engine.chat(context=context)
        for text in _questions(args):
            pending = chat.submit(text, **options)
            for piece in pending.pieces():
                if not args.json:
                    print(piece, end="", flush=True)
            _tell(pending.result(), args)


def _questions(args: argparse.Namespace) -> Iterator[str]:
    """The question of the command line, then what is typed, one a line."""
    if args.question is not None:
        yield args.question
    if args.question is not None and (args.json or not sys.stdin.isatty()):
        return
    while True:
        if sys.stdin.isatty():
            print(_PROMPT, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _tell(reply: Reply, args: argparse.Namespace) -> None:
    if args.json:
        figures = {
            "prompt_tokens": reply.prompt_tokens,
            "reused_tokens": reply.reused_tokens,
            "new_tokens": len(reply.tokens),
        }
        told = {"answer": reply.text, **figures, "tokens": reply.tokens, "keys": reply.keys, "seconds": reply.seconds}
        print(json.dumps(told), flush=True)
        return
    print(flush=True)
    reused = f", {reply.reused_tokens} of them computed before" if reply.reused_tokens else ""
    print(
        f"({reply.prompt_tokens} tokens read{reused}; {len(reply.tokens)} said in {reply.seconds:.1f} s; keys of at "
        f"most {max(reply.keys)} tokens a rank, {args.ranks} rank{'s' * (args.ranks > 1)})",
        file=sys.stderr,
    )
