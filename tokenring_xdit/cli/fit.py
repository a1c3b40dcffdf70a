"""``tokenring-xdit fit``: how many tokens fit into the memory of ranks, before anything is loaded."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from tokenring_xdit.amounts import bytes_in_words
from tokenring_xdit.cli.text import refuse_below_one
from tokenring_xdit.dtypes import DTYPE_BYTES
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.language_shapes import LANGUAGE_SHAPES, LanguageShape
from tokenring_xdit.pipelines.text_models import text_shape
from tokenring_xdit.planning.capacity import Need, ask_for, longest

__all__ = ["fit_command"]


def fit_command(args: argparse.Namespace) -> None:
    """Print the longest prompt that fits, and what takes how much memory."""
    refuse_below_one(args, "ranks", "batch", "memory", "tokens", "chunk")
    memory, spare, tokens, chunk = args.memory, args.spare, args.tokens, args.chunk
    if spare >= memory:
        raise ConfigurationError(
            f"--spare of {bytes_in_words(spare)} leaves nothing of a --memory of {bytes_in_words(memory)}: spare less"
        )
    shape = LANGUAGE_SHAPES.get(args.model) or text_shape(args.model, *LANGUAGE_SHAPES)
    call = {"ranks": args.ranks, "element_bytes": DTYPE_BYTES[args.dtype], "batch": args.batch}
    ways: dict[str, dict[str, Any]] = {"whole": {"chunk": None}, "chunks": {"chunk": chunk}}
    if args.ranks == 1:
        ways |= {f"unmodified_{way}": {**said, "unmodified": True} for way, said in ways.items()}
    if tokens is None:
        needs = {way: longest(shape, memory - spare, **call, **said) for way, said in ways.items()}
    else:
        needs = {way: ask_for(shape, tokens, **call, **said) for way, said in ways.items()}
    if args.json:
        found = {
            way: need and {**asdict(need), "total": need.total, "fits": need.total <= memory - spare}
            for way, need in needs.items()
        }
        print(json.dumps({"model": args.model, **call, "memory": memory, "spare": spare, "chunk": chunk, **found}))
        return
    _tell(args, shape, needs, memory - spare, chunk)


def _tell(
    args: argparse.Namespace, shape: LanguageShape, needs: dict[str, Need | None], usable: int, chunk: int
) -> None:
    words = {"whole": "the whole prompt at once", "chunks": f"in chunks of {chunk} (prefill_chunk_size={chunk})"}
    kernel = "eager" if shape.eager else "sdpa"
    words |= {f"unmodified_{way}": f"without parallelize ({kernel}), {said}" for way, said in words.items()}
    ranks = f"{args.ranks} rank{'s' * (args.ranks > 1)}"
    print(
        f"{args.model}, {args.dtype}, {ranks} of {bytes_in_words(args.memory)}, {bytes_in_words(args.spare)} of it "
        "kept free; forecast, not measured. "
        f"A token's keys: {bytes_in_words(shape.layers * shape.key_bytes(DTYPE_BYTES[args.dtype]))}"
        + (" before windows end them" if any(shape.windows) else "")
    )
    for way, need in needs.items():
        if need is None:
            least = ask_for(shape, 1, ranks=args.ranks, element_bytes=DTYPE_BYTES[args.dtype], batch=args.batch)
            print(
                f"{words[way]}: nothing fits; the weights take {bytes_in_words(least.weights)} on every rank, and "
                f"{bytes_in_words(usable)} are usable"
            )
            continue
        verdict = "" if args.tokens is None else ": fits" if need.total <= usable else ": does not fit"
        print(f"{words[way]}: {need.tokens} tokens{verdict}")
        parts = {
            "weights": need.weights,
            "keys": need.keys,
            "a layer that attends" if need.attention > need.activations else "a layer": need.layer,
            "indices": need.indices,
        }
        print(
            f"  {bytes_in_words(need.total)} a rank of {bytes_in_words(usable)}: "
            + ", ".join(f"{part} {bytes_in_words(size)}" for part, size in parts.items())
        )
