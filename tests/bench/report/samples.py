"""Records and timelines of sweeps that nobody ran, with every kind of figure."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

from tokenring_xdit.bench import Record, Status
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.schedule import Activity, Span, Timeline

MACHINE = {"cpu": "Some CPU", "cores": 2, "platform": "Linux", "torch": "2.13.0", "xfuser": "0.7.0", "device": "cpu"}

SHARES = {
    "xfuser-ring": 2.0,
    "schedule:ring": 1.9,
    "schedule:token_ring": 1.1,
    "schedule:bidirectional": 1.0,
    "schedule:direct:chunks=4": 0.5,
    "ulysses": 0.6,
}
"""For each strategy how many blocks its busiest link carries, for each of the other ranks."""


def record(
    seconds: list[float] | None, strategy: str = "schedule:token_ring", status: Status = Status.OK, **more: Any
) -> Record:
    """A case with a call that took ``seconds``, 40% of which was computing."""
    shape = {"ranks": 4, "tokens": 4096, "heads": 8, "head_dim": 64, "batch": 1, "dtype": "float32"}
    values: dict[str, Any] = {**shape, "network": "none", "rounds": len(seconds or [0]), "seed": 0}
    if seconds is not None:
        values |= {
            "seconds": Spread.of(seconds),
            "compute_seconds": Spread.of([0.4 * s for s in seconds]),
            "exposed_seconds": Spread.of([0.6 * s for s in seconds]),
            "max_error": 7e-7,
            "checked_rows": 64,
            "bytes_sent": (10**6,) * int(more.get("ranks", 4)),
            "peak_bytes": (3 * 10**6,) * int(more.get("ranks", 4)),
            "peak_measure": "tensors allocated by the calling thread (torch.profiler)",
            "machine": MACHINE,
            "load_at_start": 0.1,
        }
    return Record(strategy=strategy, status=status, **{**values, **more})


def links_of_a_mesh(ranks: int, block: float, share: float) -> tuple[dict[str, dict[str, int]], ...]:
    """What interfaces of a mesh of 8 hosts count where every rank sends most to the next one; some links are idle."""
    pairs = list(combinations(range(8), 2))
    found: list[dict[str, dict[str, int]]] = [{} for _ in range(ranks)]
    for index, (a, b) in enumerate(pairs):
        if b >= ranks:
            continue
        there, back = (
            int(block * (share * (ranks - 1) if (to - sender) % ranks == 1 else 0.2)) for sender, to in ((a, b), (b, a))
        )
        found[a][f"link{index}"] = {"sent": there, "received": back}
        found[b][f"link{index}"] = {"sent": back, "received": there}
    return tuple(found)


def sweep(
    tokens: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768),
    ranks: tuple[int, ...] = (2, 4, 8),
    strategies: tuple[str, ...] = tuple(SHARES),
    **more: Any,
) -> list[Record]:
    """A whole sweep on emulated meshes of 8 hosts; one case refused, one failed."""
    noise = random.Random(0)
    found = []
    for count in ranks:
        for length in tokens:
            for strategy in strategies:
                share = SHARES.get(strategy, 1.5)
                block = length / count * 8 * 64 * 4
                compute = length**2 / count * 3e-8
                links = 8 * block * share * (count - 1) / 1e8
                rounds = [(compute + max(0.0, links - compute / 3)) * noise.uniform(0.97, 1.12) for _ in range(7)]
                values: dict[str, Any] = {
                    "ranks": count,
                    "tokens": length,
                    "network": "mesh:8:100mbit",
                    "compute_seconds": Spread.of([compute] * 7),
                    "exposed_seconds": Spread.of([call - compute for call in rounds]),
                    "link_bytes": links_of_a_mesh(count, block, share),
                    "bytes_sent": (int(block * 2 * (count - 1)),) * count,
                    "peak_bytes": (int(block * (3 + share * count)),) * count,
                    "network_share": 0.97,
                    "command": "tokenring-xdit bench configs/sweeps/some.yaml 'tokens=[1024, 2048]'",
                    "finished": "2026-11-25T01:19:10+00:00",
                    **more,
                }
                if (strategy, count, length) == (strategies[-1], ranks[-1], tokens[0]):
                    values = {name: values[name] for name in ("ranks", "tokens", "network", "command")}
                    found.append(
                        record(None, strategy, Status.REFUSED, error="ulysses shards heads, and 8 do not", **values)
                    )
                elif (strategy, count, length) == (strategies[0], ranks[-1], tokens[-1]):
                    values = {name: values[name] for name in ("ranks", "tokens", "network", "command")}
                    found.append(record(None, strategy, Status.FAILED, error="rank 1 was ended by signal 9", **values))
                else:
                    found.append(record(rounds, strategy, **values))
    return found


def timeline(name: str, ranks: int = 4, step: float = 0.1, wait: float = 0.05) -> Timeline:
    """Queries that go one way round, and outputs that come straight home."""
    spans = []
    for rank in range(ranks):
        now = 0.0
        for number in range(ranks):
            peer, before = (rank + 1) % ranks, (rank - 1) % ranks
            if number < ranks - 1:
                end = now + step + wait
                spans.append(Span(rank, Activity.SEND, now, end, f"Q[{rank}]", "q", peer, 2_000_000))
                spans.append(Span(rank, Activity.RECEIVE, now, end, f"Q[{before}]", "q", before, 2_000_000))
            if number:
                home = (rank - number) % ranks
                spans.append(Span(rank, Activity.SEND, now, now + step, f"O[{home}]", "o", home, 2_100_000))
            spans.append(Span(rank, Activity.ATTEND, now, now + step, f"Q[{rank}] to KV[{rank}]"))
            spans.append(Span(rank, Activity.WAIT, now + step, now + step + wait, "O"))
            spans.append(Span(rank, Activity.MERGE, now + step + wait, now + step + wait + 0.004, "O"))
            now += step + wait + 0.004
    return Timeline(name, ranks, tuple(spans))


def write(folder: Path, records: list[Record], timelines: dict[str, Timeline] | None = None, **case: Any) -> Path:
    """Write results as a sweep does, and timelines beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    results.write_text("".join(entry.model_dump_json() + "\n" for entry in records))
    shape = {"heads": 8, "head_dim": 64, "batch": 1, "dtype": "float32", "tokens": 4096, "network": "mesh:8:100mbit"}
    lines = [
        json.dumps(
            {
                **shape,
                **case,
                "strategy": name,
                "ranks": found.world_size,
                "clock_error": 0.0,
                "timeline": found.to_dict(),
            }
        )
        + "\n"
        for name, found in (timelines or {}).items()
    ]
    if lines:
        (folder / "timelines.jsonl").write_text("".join(lines))
    return results
