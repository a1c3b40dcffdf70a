"""Strikes a rank at a random moment, over and over, and counts what the others say: run by hand, it takes minutes.

``python -m tests.attention.strike [TRIALS] [SEED]``
"""

from __future__ import annotations

import collections
import random
import re
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import torch

from tests.attention.trouble import Rank, attend, cheap, run
from tokenring_xdit.attention import exchange, guarded, token_ring_attention

KINDS = ("kill", "stop", "raise")
SCHEDULES = ("token_ring", "direct", "ring", "bidirectional", "heads", "token_ring:chunks=2", "auto")


def calls(own: Rank, victim: int, kind: str, moment: float, seed: int) -> None:
    """Calls of all sorts, the same on all ranks, until one rank is struck."""
    dice = random.Random(seed)
    raised: list[bool] = []
    if own.rank == victim:

        def strike() -> None:
            if kind == "raise":
                raised.append(True)
            own.fault("tell" if kind == "raise" else kind)

        threading.Timer(moment, strike).start()

    def one() -> str:
        if raised:
            raise ValueError("struck")
        sort = dice.choice(("small", "keyed", "large", "exchange"))
        schedule = dice.choice(SCHEDULES)
        if sort == "exchange":
            return f"{exchange(None, own.rank, 'ranks')}"
        if sort == "large":
            tensor = torch.zeros(1, 2, 30_000, 16)
            schedule = "direct" if schedule == "auto" else schedule
            token_ring_attention(tensor, tensor, tensor, schedule=schedule, cache_key="large", kernel=cheap)
            return "right"
        return attend(own, 1, dice.choice((8, 96)), schedule=schedule, cache_key="key" if sort == "keyed" else None)

    def section() -> str:
        with guarded(None, "a section"):
            for _ in range(20):
                one()
        return "section"

    while own.try_to(section):
        pass
    if own.rank == victim:
        time.sleep(60)


def main(trials: int, seed: int) -> None:
    """Run the trials and print what was found."""
    dice = random.Random(seed)
    named: collections.Counter[str] = collections.Counter()
    told: collections.Counter[str] = collections.Counter()
    longest: dict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(trials):
            kind, ranks = KINDS[trial % len(KINDS)], dice.choice((2, 3, 4))
            victim, moment = dice.randrange(ranks), dice.choice((dice.uniform(0, 0.5), dice.uniform(0, 3)))
            others = tuple(rank for rank in range(ranks) if rank != victim)
            job = partial(run, ranks, calls, victim, kind, moment, seed + trial)
            try:
                said = job(folder=Path(folder), awaited=others, environment={"TOKENRING_AGREEMENT_TIMEOUT": "20"})
            except AssertionError as error:
                print(f"trial {trial}: {kind} of rank {victim} of {ranks} after {moment:.2f} s: {error}", flush=True)
                told[kind] += len(others)
                continue
            for rank in others:
                told[kind] += 1
                took = said[rank].times[-1] - (said[victim].fault or 0)
                longest[kind] = max(longest[kind], took)
                if re.match(
                    rf"CommunicationError: (\w[^:]*: )?rank {victim} (is|was|failed|cannot)\b", said[rank].last
                ):
                    named[kind] += 1
                else:
                    print(
                        f"trial {trial}: {kind} of rank {victim} of {ranks} after {moment:.2f} s, rank {rank} after "
                        f"{took:.1f} s: {said[rank].last[:400]}",
                        flush=True,
                    )
    for kind in KINDS:
        print(
            f"{kind}: {named[kind]} of {told[kind]} named the rank, at latest after {longest[kind]:.1f} s", flush=True
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
