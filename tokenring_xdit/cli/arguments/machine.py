"""Arguments that say which attention call is planned for, and on which machine."""

from __future__ import annotations

import argparse

from tokenring_xdit.amounts import parse_tokens
from tokenring_xdit.dtypes import DTYPES, parse_dtype
from tokenring_xdit.hosts.models import model_shapes
from tokenring_xdit.topology import EXAMPLES

__all__ = ["add_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a command."""
    parser.add_argument(
        "--topology", required=True, help=f"network between the ranks: {EXAMPLES}, a preset, or nvidia-smi"
    )
    parser.add_argument("--ranks", type=int, help="number of ranks (default: one for each host of the topology)")
    about = parser.add_argument_group("the attention call: a model, or numbers")
    about.add_argument("--model", help=f"one of {', '.join(model_shapes())}")
    about.add_argument("--size", help="of the model's pictures: pixels, or WIDTHxHEIGHT, as 1280x720 (default: 1024)")
    about.add_argument("--frames", type=int, help="of the model's video (default: 1)")
    about.add_argument(
        "--tokens",
        type=parse_tokens,
        help="length of the whole sequence, in place of a model; 4096, 128k (of 1024), 1m",
    )
    about.add_argument("--queries", type=int, help="number of queries, if fewer than tokens, as with PipeFusion")
    about.add_argument("--heads", type=int, help="heads of queries")
    about.add_argument("--kv-heads", type=int, help="heads of keys and values, if fewer")
    about.add_argument("--head-dim", type=int, help="width of a head")
    about.add_argument("--batch", type=int, default=1, help="items of a batch (default: %(default)s)")
    about.add_argument(
        "--dtype",
        type=parse_dtype,
        default="bfloat16",
        help=f"of the tensors: {', '.join(DTYPES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--tflops",
        type=float,
        help="speed of the attention kernel on one GPU of the topology, in TFLOP/s "
        "(default: measured on this machine's device, in about a second)",
    )
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="calls are captured as CUDA graphs: launching them takes no time"
    )
