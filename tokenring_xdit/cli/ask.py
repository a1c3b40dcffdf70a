"""``tokenring-xdit ask``: questions to a language model about a text that is sharded over ranks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from tokenring_xdit.cli.text import read_text, refuse_below_one, text_ranks
from tokenring_xdit.devices import default_dtype
from tokenring_xdit.pipelines.text_orders import LoadText, Question, Said

__all__ = ["ask_command"]

_PROMPT = "> "


def ask_command(args: argparse.Namespace) -> None:
    """Answer a question, or questions line by line."""
    refuse_below_one(args, "ranks", "max_new_tokens", "tokens_per_rank")
    context = "" if args.context is None else read_text("--context", args.context)
    with text_ranks(args) as pool:
        pool.ask(LoadText(args.model, args.dtype or default_dtype(), context, args.tokens_per_rank))
        for text in _questions(args):
            question = Question(text, args.max_new_tokens, args.temperature, args.seed, stream=not args.json)
            _tell(pool.ask(question, show=_say), args)


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


def _say(piece: Any) -> None:
    print(piece, end="", flush=True)


def _tell(answers: list[Said], args: argparse.Namespace) -> None:
    first, keys = answers[0], [answer.keys for answer in answers]
    if args.json:
        figures = {"prompt_tokens": first.prompt_tokens, "reused_tokens": first.reused, "new_tokens": first.new_tokens}
        print(
            json.dumps(
                {"answer": first.text, **figures, "tokens": first.tokens, "keys": keys, "seconds": first.seconds}
            ),
            flush=True,
        )
        return
    print(flush=True)
    reused = f", {first.reused} of them computed before" if first.reused else ""
    print(
        f"({first.prompt_tokens} tokens read{reused}; {first.new_tokens} said in {first.seconds:.1f} s; keys of at "
        f"most {max(keys)} tokens a rank, {args.ranks} rank{'s' * (args.ranks > 1)})",
        file=sys.stderr,
    )
