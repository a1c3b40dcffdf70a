"""What a request to a server takes more than the same call of an engine: both in turn, on an idle machine.

    python scripts/serve_overhead.py --rounds 30 --size 64 --steps 8

Says medians of both, and of what each pair differs by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--format", default="png", help="of the pictures that the server sends")
    args = parser.parse_args()
    words = ["serve", args.model, f"tokenring_degree={args.ranks}", "forecasts=none", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "tokenring_xdit.cli", *words], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().rpartition(" ")[2].strip()
            report(args, *measured(args, address))
        finally:
            server.terminate()


def measured(args: argparse.Namespace, address: str) -> tuple[list[float], list[float]]:
    """Seconds of the engine's calls, and of the server's answers, in pairs."""
    from tokenring_xdit import Engine

    alone, served = [], []
    with Engine(args.model, tokenring_degree=args.ranks) as engine:
        wait(address)
        body = {"prompt": "a red circle", "size": f"{args.size}x{args.size}", "steps": args.steps, "seed": 1}
        sent = json.dumps({**body, "output_format": args.format}).encode()

        def call() -> float:
            start = time.perf_counter()
            engine.generate(body["prompt"], width=args.size, height=args.size, steps=args.steps, seed=1, progress=False)
            return time.perf_counter() - start

        def ask() -> float:
            start = time.perf_counter()
            request = urllib.request.Request(
                f"{address}/v1/images/generations", sent, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                answer.read()
            return time.perf_counter() - start

        for turn in range(args.rounds + 2):
            first, second = (call, ask) if turn % 2 else (ask, call)
            times = {first: first(), second: second()}
            if turn >= 2:  # the first ones warm up
                alone.append(times[call])
                served.append(times[ask])
    return alone, served


def wait(address: str) -> None:
    """Until the server is ready."""
    while True:
        try:
            with urllib.request.urlopen(f"{address}/ready"):
                return
        except urllib.error.URLError:
            time.sleep(0.2)


def report(args: argparse.Namespace, alone: list[float], served: list[float]) -> None:
    """Say it."""
    more = [b - a for a, b in zip(alone, served, strict=True)]
    low, _, high = statistics.quantiles(more, n=4)
    print(f"{args.rounds} rounds of {args.size}x{args.size}, {args.steps} steps, {args.ranks} ranks, {args.format}")
    print(f"engine: {1e3 * statistics.median(alone):.1f} ms; server: {1e3 * statistics.median(served):.1f} ms")
    share = statistics.median(more) / statistics.median(alone)
    print(f"more: {1e3 * statistics.median(more):.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f}), {share:.1%}")


if __name__ == "__main__":
    main()
