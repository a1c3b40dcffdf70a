"""Arguments of ``tokenring-xdit ask``."""

from __future__ import annotations

import argparse

from tokenring_xdit.defaults import MAX_NEW_TOKENS
from tokenring_xdit.dtypes import DTYPES, parse_dtype

__all__ = ["MODEL_HELP", "add_model", "add_parser"]

MODEL_HELP = "folder or hub name of a language model of transformers, or smollm2, a small one that needs no hub"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add which language model is loaded, in which dtype, on how many ranks."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--ranks", type=int, default=1, help="ranks that share the tokens (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)} (default: bfloat16 on GPUs, float32 without)",
    )


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ask",
        help="ask a language model about a long text that is sharded over several ranks",
        epilog='example: tokenring-xdit ask Qwen/Qwen2.5-7B-Instruct --ranks 4 --context book.txt "Who did it?"',
    )
    add_model(parser)
    parser.add_argument("question", nargs="?", help="what to ask; without it questions are read line by line")
    parser.add_argument("--context", metavar="FILE", help="a text that the questions are about, in UTF-8")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        help="tokens an answer may have (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens-per-rank",
        type=int,
        metavar="N",
        help="refuse what would put keys of more tokens on a rank (default: no limit)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="above 0: sample tokens (default: greedy decoding)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print each answer as a line of JSON")
    parser.set_defaults(action="ask:ask_command", late="question")
