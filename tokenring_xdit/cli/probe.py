"""``tokenring-xdit probe``: measures what joins ranks, and writes it as a topology."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tokenring_xdit.attention.auto import kept_topology
from tokenring_xdit.bench.pool import start_pool
from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.cli.progress import progress
from tokenring_xdit.cli.torchrun import refuse_other_ranks
from tokenring_xdit.devices import gpu_count, refuse_missing_gpus
from tokenring_xdit.errors import ConfigurationError, NetworkError
from tokenring_xdit.lab.network import emulate
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.probe import PROBE, Probed, probe
from tokenring_xdit.probe.report import matrix, remarks
from tokenring_xdit.topology import Network, load_network, network_to_mapping, network_to_yaml
from tokenring_xdit.workers.pool import Pool
from tokenring_xdit.workers.torchrun import TorchrunPool, serve_torchrun

__all__ = ["probe_command"]

_RANKS = 4  # without a GPU
_MOST_RANKS = 64  # on one machine


def probe_command(args: argparse.Namespace) -> None:
    """Measure what joins ranks."""
    network = None if args.network is None else load_network(args.network)
    _refuse(args, network)
    if "RANK" in os.environ and network is None:
        _as_rank(args)
        return
    ranks = _count(args.ranks, network)
    with _started(ranks, network) as pool:
        probed = _probe(pool, args)
    _tell(probed, args)


def _refuse(args: argparse.Namespace, network: Network | None) -> None:
    if args.seconds is not None and args.seconds <= 0:
        raise ConfigurationError(f"--seconds {args.seconds:g} is no time: leave it out, or take 15 and more")
    if network is not None and args.ranks is not None and args.ranks > len(network.hosts):
        raise ConfigurationError(
            f"--ranks {args.ranks} do not fit into network '{network.name}': each has a host of its own, and there are "
            f"{len(network.hosts)}"
        )
    started = os.environ.get("WORLD_SIZE") if "RANK" in os.environ and network is None else None
    if started is not None:
        refuse_other_ranks(args.ranks, int(started))
    ranks = int(started) if started is not None else args.ranks
    if ranks is not None and ranks < 2:
        raise ConfigurationError(f"--ranks {ranks}: a link joins two ranks, so use 2 or more")
    if started is None and ranks is not None and ranks > _MOST_RANKS:
        raise ConfigurationError(
            f"--ranks {ranks} are more than the {_MOST_RANKS} that one machine starts; see torchrun"
        )
    if args.output is not None and os.environ.get("RANK", "0") == "0":
        if args.output.suffix.lower() not in {".yaml", ".yml"}:
            raise ConfigurationError(f"--output {args.output} has to end in .yaml, by which it is known as a topology")
        refuse_unwritable(args.output, f"--output {args.output}")


def _count(asked: int | None, network: Network | None) -> int:
    """Number of ranks to start on this machine."""
    if network is not None:
        return asked or len(network.hosts)
    gpus = gpu_count()
    if gpus == 1 and asked is None:
        raise ConfigurationError("this machine has one GPU, with nothing to measure between it and another")
    ranks = asked or gpus or _RANKS
    refuse_missing_gpus(ranks)
    return ranks


@contextmanager
def _started(ranks: int, network: Network | None) -> Iterator[Pool]:

    with (
        nullcontext() if network is None else emulate(network) as emulated,
        start_pool(ranks, emulated, PROBE) as pool,
    ):
        yield pool


def _as_rank(args: argparse.Namespace) -> None:
    if os.environ["RANK"] != "0":
        serve_torchrun(PROBE)
        return
    with TorchrunPool(PROBE) as pool:
        probed = _probe(pool, args)
    _tell(probed, args)


def _probe(ranks: Pool, args: argparse.Namespace) -> Probed:

    with progress("probe") as show:
        return probe(ranks, quick=args.quick, seconds=args.seconds, on_step=show)


def _tell(probed: Probed, args: argparse.Namespace) -> None:

    inference = probed.inference
    network, beside = inference.network, remarks(probed, args.network)
    if network is not None and args.output is not None:
        write_whole(args.output, network_to_yaml(network, beside))
    if args.json:
        found = None if inference.shape is None else inference.shape.short_form
        mapping = None if network is None else network_to_mapping(network)
        print(json.dumps({"shape": found, "words": inference.words, "topology": mapping, **beside}))
    else:
        print(matrix(probed.figures))
        if network is not None:
            print("\n".join([inference.words, *inference.notes]))
            noise = probed.figures.noise
            print(f"off by {inference.error:.0%} where most; measurements of the same differ by {noise:.0%}")
    if network is None:
        nothing = f"{args.output} was not written: " if args.output is not None else ""
        raise NetworkError(f"{nothing}{inference.words}")
    if args.output is not None:
        print(f"wrote {args.output}", file=sys.stderr)
    if args.network is None:
        kept = kept_topology(len(probed.descriptions))
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, network_to_yaml(network, beside))
        print(f"kept for schedule auto: {kept}", file=sys.stderr)
