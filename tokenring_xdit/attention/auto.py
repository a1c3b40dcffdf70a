"""Chooses the schedule of a call for its shapes: by simulation on the network there is, or by trying.

The first rank of a group decides, and tells the others what to run; all keep that for calls of the same
layout, so it is the same on all of them by construction.
"""

from __future__ import annotations

import logging
import os
import socket
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.calibrate import calibrate
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError, TokenRingError, UnsupportedError, named
from tokenring_xdit.outputs import cache_folder
from tokenring_xdit.planning import NO_EFFECTS, Effects, Machine, Option, best_schedules
from tokenring_xdit.schedule import ALGORITHMS, Auto, Mask, VerifiedSchedule, build, parse
from tokenring_xdit.topology import Network, load_topology

__all__ = [
    "TOPOLOGY_VARIABLE",
    "AutoSchedule",
    "ScheduleTrial",
    "kept_topology",
    "plan_with",
    "planned_for_replays",
    "show_choices",
    "trial_calls",
]

log = logging.getLogger(__name__)

TOPOLOGY_VARIABLE = "TOKENRING_TOPOLOGY"
"""Environment variable: what joins the ranks of the program, as ``tokenring-xdit plan --topology`` takes it."""

_CANDIDATES = 3
_ROUNDS = 3
"""Timed calls of each candidate, after one that makes its buffers."""

_trial_calls = 0
_effects: Effects = NO_EFFECTS
_replayed = False


def plan_with(effects: Effects) -> None:
    """Say what else happens to the ranks of this process; benchmarks do, of networks that they emulate."""
    global _effects
    _effects = effects


@contextmanager
def planned_for_replays() -> Iterator[None]:
    """Inside, choices are for calls that are replayed as CUDA graphs, which launch nothing; on all ranks alike."""
    global _replayed
    before, _replayed = _replayed, True
    try:
        yield
    finally:
        _replayed = before


def trial_calls() -> int:
    """Calls of this process so far that tried a candidate; it stays as it is once all is decided."""
    return _trial_calls


def kept_topology(ranks: int) -> Path:
    """Where ``tokenring-xdit probe`` keeps what it found for this many ranks, the first of which is on this host."""
    return cache_folder() / f"topology-{socket.gethostname()}-{ranks}.yaml"


def show_choices() -> None:
    """Print what is chosen, and why, where the program has not said what becomes of its log."""
    if not log.hasHandlers():
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False  # libraries that are imported later set up the root's, which would say it again


@dataclass
class ScheduleTrial:
    """Candidates for a layout, and how they did; one candidate where it is decided.

    Attributes:
        candidates: In the order in which the planner would take them.
        seconds: Seconds of the calls of each, on this rank.
        calls: Calls so far.
    """

    candidates: tuple[VerifiedSchedule, ...]
    seconds: list[list[float]]
    calls: int = 0

    @property
    def decided(self) -> bool:
        """Whether there is nothing left to find out."""
        return len(self.candidates) == 1

    @property
    def schedule(self) -> VerifiedSchedule:
        """What the next call runs: each candidate in turn."""
        return self.candidates[self.calls % len(self.candidates)]


class AutoSchedule:
    """The choices of one group of ranks.

    Args:
        group: The group.
    """

    def __init__(self, group: RingGroup) -> None:
        self._group, self._peers, self._rank = group, group.peers, group.rank
        self._trials: dict[tuple[Auto, Layout, bool], ScheduleTrial] = {}
        self._machines: dict[tuple[str, torch.dtype, int, int], Machine] = {}
        self._hosts: list[str] | None = None
        self._tells = not dist.is_initialized() or dist.get_rank() == 0

    @classmethod
    def of(cls, group: RingGroup) -> AutoSchedule:
        """The one of a group."""
        if cls not in group.kept:
            group.kept[cls] = cls(group)
        choices: AutoSchedule = group.kept[cls]
        return choices

    def trial(self, auto: Auto, layout: Layout, device: torch.device) -> ScheduleTrial:
        """What to run for a layout.

        Args:
            auto: What was asked for.
            layout: What the ranks agreed on.
            device: Where attention runs.

        Raises:
            ConfigurationError: On all ranks alike, where the first cannot decide.
            UnsupportedError: On all ranks alike, where no schedule takes the call.
        """
        # What only this rank knows is no part of it: all ranks have to find, or not to find, the same.
        key = auto, replace(layout, spec=replace(layout.spec, q_length=0, kv_length=0, ragged=False)), _replayed
        if key in self._trials:
            return self._trials[key]
        names, why = self._decide(auto, layout, device)
        heads = layout.spec.kv_heads  # of which query heads are a multiple
        candidates = tuple(build(name, len(layout.q_lengths), Mask(layout.spec.mask), heads) for name in names)
        trial = self._trials[key] = ScheduleTrial(candidates, [[] for _ in names])
        needs = dict.fromkeys(need for candidate in candidates for need in candidate.schedule.needs)
        self._group.transports.make_ready(tuple(needs), device, layout.spec.transport)
        if self._tells:
            what = names[0] if trial.decided else f"the fastest of {', '.join(names)} in the first calls"
            log.info("schedule auto: %s for %s: %s", what, _in_words(layout), why)
        return trial

    def timed(self, trial: ScheduleTrial, layout: Layout, seconds: float) -> None:
        """Note how long the call took that ran ``trial.schedule``; after the last of them all ranks decide."""
        global _trial_calls
        _trial_calls += 1
        trial.seconds[trial.calls % len(trial.candidates)].append(seconds)
        trial.calls += 1
        if trial.calls < len(trial.candidates) * (1 + _ROUNDS):
            return
        found = self._group.swap_within_call(trial.seconds)
        # The slowest rank's time counts. The first call of each made its buffers.
        medians = [
            statistics.median(max(rank[index][turn] for rank in found) for turn in range(1, 1 + _ROUNDS))
            for index in range(len(trial.candidates))
        ]
        best = medians.index(min(medians))
        if self._tells:
            times = ", ".join(
                f"{v.schedule.name} {median * 1e3:.2f} ms" for v, median in zip(trial.candidates, medians, strict=True)
            )
            name = trial.candidates[best].schedule.name
            log.info("schedule auto: %s for %s: measured %s", name, _in_words(layout), times)
        trial.candidates = trial.candidates[best : best + 1]

    def planned(
        self,
        decide: Callable[[Network, Machine, Effects], str],
        device: torch.device,
        dtype: torch.dtype,
        heads: int,
        head_dim: int,
    ) -> str | None:
        """What the first rank decides on a network that is known, told to all; they ask for it inside a call.

        Args:
            decide: From the network, the speeds of ranks, and what else happens.
            device: Where attention runs.
            dtype: Dtype of queries and keys.
            heads: Query heads.
            head_dim: Width of a head.

        Returns:
            Its word; ``None`` where nothing is known of the network.

        Raises:
            ConfigurationError: On all ranks alike, where the first cannot decide.
        """
        hosts = self._all_hosts()

        def answer() -> tuple[str | None]:
            network = self._network()
            if network is None:
                return (None,)
            return (decide(network, self._machine(device, dtype, heads, head_dim, hosts), _effects),)

        told: str | None = self._told(answer)[0]
        return told

    # -- deciding ----------------------------------------------------------------------------------------------

    def _decide(self, auto: Auto, layout: Layout, device: torch.device) -> tuple[list[str], str]:
        """Names of what to run or to try, and why: the first rank's word."""
        hosts = self._all_hosts()
        names, why = self._told(lambda: self._choose(auto, layout, device, hosts))
        return names, why

    def _told(self, decide: Callable[[], tuple[Any, ...]]) -> Sequence[Any]:
        """What the first rank decides, on all ranks; what it refuses is refused on all of them."""
        answer: Any = None
        cause: BaseException | None = None
        if self._rank == 0:
            try:
                answer = None, *decide()
            except UnsupportedError as error:
                answer, cause = (UnsupportedError.__name__, str(error)), error.__cause__
            except Exception as error:  # whatever it is, the other ranks wait for an answer
                what = f"{error}" if isinstance(error, TokenRingError) else f"{type(error).__name__}: {error}"
                answer, cause = (ConfigurationError.__name__, f"schedule auto: {what}"), error
        refused, *told = self._group.swap_within_call(answer)[0]
        if refused is not None:
            raise named(refused, *told) from cause
        answered: Sequence[Any] = told
        return answered

    def _all_hosts(self) -> list[str]:
        if self._hosts is None:
            self._hosts = self._group.swap_within_call(socket.gethostname())
        return self._hosts

    def _choose(self, auto: Auto, layout: Layout, device: torch.device, hosts: list[str]) -> tuple[list[str], str]:
        ranks = len(self._peers)
        if ranks == 1:
            return [DEFAULT_SCHEDULE], "there is one rank"
        network = self._network()
        if network is None:
            return self._unknown(auto, layout)
        spec = layout.spec
        machine = self._machine(device, spec.dtype, spec.heads, spec.head_dim, hosts)
        options = best_schedules(
            layout.problem,
            network,
            machine.captured() if _replayed else machine,
            _effects,
            nodes=auto.nodes,
            mask=Mask(spec.mask),
            keys_stay_whole=layout.ragged,
        )
        _refuse_none(options, auto, layout)
        chosen = options[: _CANDIDATES if auto.measure else 1]
        return [option.dims.sequence_schedule for option in chosen], _reason(options, network)

    def _machine(
        self, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, hosts: list[str]
    ) -> Machine:
        """Speeds of ranks, measured once."""
        key = device.type, dtype, heads, head_dim
        if key not in self._machines:
            here = max(hosts.count(hosts[0]), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
            ranks = len(self._peers)
            self._machines[key] = calibrate(device, dtype, heads, head_dim, ranks_here=here, ranks=ranks)
        return self._machines[key]

    def _network(self) -> Network | None:
        """What joins the ranks of this group, those first; ``None`` where nobody knows."""
        known = os.environ.get(TOPOLOGY_VARIABLE) or _kept(dist.get_world_size())
        if not known:
            return None
        network = load_topology(known)
        if max(self._peers) >= len(network.hosts):
            raise ConfigurationError(
                f"topology {network.name} has {len(network.hosts)} hosts, and rank {max(self._peers)} of this program "
                f"would be at the next one: probe again, or set {TOPOLOGY_VARIABLE} to one of "
                f"{dist.get_world_size()} hosts"
            )
        own = tuple(network.hosts[peer] for peer in self._peers)
        return replace(network, hosts=own + tuple(host for host in network.hosts if host not in own))

    def _unknown(self, auto: Auto, layout: Layout) -> tuple[list[str], str]:
        ranks = len(self._peers)
        why = (
            f"the links between the ranks are unknown: run tokenring-xdit probe, or set {TOPOLOGY_VARIABLE}, to have "
            "it predicted" + ("; what is tried is launched, which takes longer than a CUDA graph" if _replayed else "")
        )
        spec = layout.spec
        names = _guesses(Mask(spec.mask), auto.nodes)
        built = {name: build(name, ranks, Mask(spec.mask), spec.kv_heads) for name in names}
        fitting = [name for name in names if built[name].takes_heads(spec.heads, spec.kv_heads)]
        left = [name for name in fitting if built[name].keys_stay_whole or not layout.ragged]
        _refuse_none(left, auto, layout)
        return left, why


def _guesses(mask: Mask, nodes: int) -> list[str]:
    """What is tried where nothing is known of the network; inside nodes in whole blocks."""
    placed = [(a.guess.place, a.guess.options, a) for a in ALGORITHMS.values() if a.guess and mask in a.masks]
    placed.sort(key=lambda guess: guess[0])
    if nodes > 1:
        return [str(parse(algorithm.name).over_nodes(nodes)) for _, _, algorithm in placed if algorithm.inside_nodes]
    return [f"{algorithm.name}:{options}" if options else algorithm.name for _, options, algorithm in placed]


def _kept(ranks: int) -> str | None:
    try:
        kept = kept_topology(ranks)
    except RuntimeError:  # in some containers a user has no home
        return None
    return str(kept) if kept.exists() else None


def _refuse_none(left: Sequence[object], auto: Auto, layout: Layout) -> None:
    if left:
        return
    why = f"no schedule takes {layout.spec.heads} heads of queries and {layout.spec.kv_heads} of keys"
    if layout.ragged:
        between = f", and {auto.nodes} nodes exchange keys" if auto.nodes > 1 else ""
        why = f"the samples of this batch have different attention masks, which needs keys that stay put{between}"
    raise UnsupportedError(
        f"schedule '{auto}': {why}. Use schedule '{DEFAULT_SCHEDULE}' without nodes, where keys stay on their rank, or "
        "one call for each sample"
    )


def _reason(options: tuple[Option, ...], network: Network) -> str:
    first, last = options[0], options[-1]
    assert first.seconds is not None
    assert last.seconds is not None
    as_graph = " as a CUDA graph" if _replayed else ""
    return (
        f"{first.seconds * 1e3:.2f} ms predicted{as_graph} on {network.name}, the slowest of {len(options)} "
        f"({last.dims.sequence_schedule}) {last.seconds * 1e3:.2f} ms"
    )


def _in_words(layout: Layout) -> str:
    spec = layout.spec
    return (
        f"{sum(layout.q_lengths)} queries and {sum(layout.kv_lengths)} keys on {len(layout.q_lengths)} ranks, "
        f"{spec.heads} heads of {spec.head_dim}, {str(spec.dtype).removeprefix('torch.')}"
    )
