"""Arguments of ``tokenring-xdit serve``."""

from __future__ import annotations

import argparse

from tokenring_xdit.keys import KEY_VARIABLE

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP, by OpenAI's API, on the ranks of this machine (extra: serve)",
        description="Load a model once and serve it over HTTP: pictures, videos or chats. /docs lists the requests.",
        epilog="example: tokenring-xdit serve embedded tokenring_degree=2 --port 8000",
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="embedded",
        metavar="CONFIG or MODEL",
        help="a YAML file as for 'run', or the folder or hub name of a model (default: %(default)s)",
    )
    parser.add_argument("values", nargs="*", metavar="key=value", help="values that replace those of the config")
    where = parser.add_argument_group("address and ranks")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    where.add_argument("--port", type=int, default=8000, help="port; 0 is any that is free (default: %(default)s)")
    where.add_argument(
        "--api-key", metavar="KEY", help=f"key that clients must send (default: {KEY_VARIABLE}, or none)"
    )
    where.add_argument("--ui", action="store_true", help="a page for the browser as well, at /")
    where.add_argument(
        "--ray", metavar="ADDRESS", help="ranks on a Ray cluster: 'auto' or HOST:PORT of its head (extra: ray)"
    )
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max-waiting", type=int, metavar="N", help="requests that may wait (default: 16)")
    limits.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="width times height, also of the pictures that a request brings (default: 16777216)",
    )
    limits.add_argument("--max-frames", type=int, metavar="N", help="frames of a video (default: 500)")
    limits.add_argument("--max-steps", type=int, metavar="N", help="denoising steps (default: 500)")
    limits.add_argument(
        "--max-tokens", type=int, metavar="N", help="of a conversation and its answer (default: what the model reads)"
    )
    limits.add_argument(
        "--max-stored",
        type=int,
        metavar="BYTES",
        help="of videos that are kept for a day; the oldest are deleted first (default: 1073741824)",
    )
    limits.add_argument("--max-body", type=int, metavar="BYTES", help="of what is sent here (default: 1048576)")
    limits.add_argument(
        "--max-upload", type=int, metavar="BYTES", help="of what is sent with pictures to edit (default: 33554432)"
    )
    time = parser.add_argument_group("time")
    time.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="S",
        help="seconds without progress before ranks are killed, for requests of a new kind (default: %(default)g)",
    )
    time.add_argument(
        "--grace",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds that the running request gets for its step when the server ends (default: %(default)g)",
    )
    parser.set_defaults(action="serve:serve_command", late="values")
