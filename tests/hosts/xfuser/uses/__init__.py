"""What people do with a pipeline round ``parallelize``; each use is tried in every family (``docs/support.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.hosts.xfuser.uses import afterwards, arguments, callbacks, ip_adapter, lora, schedulers, transformer
from tests.hosts.xfuser.uses.harness import Trial, Use, rounding, trial
from tests.hosts.xfuser.uses.judging import OFF, Kind, Outcome, forgiven, judge
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool

__all__ = [
    "FEW",
    "GROUPS",
    "USES",
    "Kind",
    "Outcome",
    "Trial",
    "Use",
    "cases",
    "judge",
    "judged",
    "outcome_of",
    "refusal_of",
    "tried",
]

GROUPS: dict[str, dict[str, Use]] = {
    "Calls": arguments.USES,
    "Adapters": lora.USES | {f"ip-{key}": use for key, use in ip_adapter.USES.items()},
    "Schedulers": schedulers.USES,
    "The transformer": transformer.USES,
    "Callbacks": callbacks.USES,
    "Beside calls": afterwards.USES,
}
USES: dict[str, Use] = {f"{group}/{key}": use for group, uses in GROUPS.items() for key, use in uses.items()}
"""Uses by group and key."""

FEW: tuple[str, ...] = (
    "Beside calls/plain",
    "Beside calls/changing",
    "Calls/embeddings",
    "Calls/true-cfg",
    "Calls/images",
    "Calls/generators",
    "Calls/picture-pil",
    "Calls/pixel-each-rank",
    "Calls/pt",
    "Beside calls/slices",
    "Beside calls/tiles",
    "Adapters/lora-all-before",
    "Adapters/lora-all-after",
    "Adapters/lora-scale-all",
    "Adapters/lora-unloaded-after",
    "Adapters/lora-fused-across",
    "Schedulers/flow-stochastic-before",
    "Schedulers/unipc-after",
    "Callbacks/callback-contrast",
    "Callbacks/callback-latents-each-rank",
    "The transformer/fused-projections-after",
    "The transformer/casting-after",
    "The transformer/group-block-after",
    "The transformer/cache-first-block-after",
    "Beside calls/second-parallel",
    "Beside calls/controlnet-each-rank",
)
"""Uses of each kind, for what people do with a family, of which there is much."""

_FAMILIES = tuple(family for family in FAMILIES if family != "flux-runner")


def cases(families: Iterable[str] = _FAMILIES, keys: Iterable[str] = USES.keys()) -> Iterator[tuple[str, str]]:
    """Key of a use and of a family."""
    for key in keys:
        use = USES[key]
        for family in families:
            if use.families is None or family in use.families:
                yield key, family


def tried(key: str, family: str, host: str = "xfuser", graphs: bool = False) -> Trial:
    """What comes of a use on this rank."""
    return trial(USES[key], family, host, graphs=graphs)


def rounded(key: str, family: str, host: str, graphs: bool = False) -> float:
    """What :func:`rounding` finds for a use."""
    return rounding(USES[key], family, host, graphs=graphs)


def outcome_of(ranks: RankPool, key: str, family: str, host: str = "xfuser", count: int = 2) -> Outcome:
    """How a use goes on several ranks.

    Args:
        ranks: The ranks.
        key: The use.
        family: Key of the family.
        host: Which host spreads it.
        count: How many ranks.
    """
    return judged(ranks, key, family, host, ranks.run(count, tried, key, family, host))


def judged(ranks: RankPool, key: str, family: str, host: str, trials: list[Trial], *, graphs: bool = False) -> Outcome:
    """How a use went, of which nothing is said that rounding explains."""
    outcome = judge(USES[key], trials)
    if outcome.kind is Kind.WRONG and outcome.text.startswith(OFF):
        (single,) = ranks.run(1, rounded, key, family, host, graphs)
        outcome = forgiven(outcome, single)
    return outcome


def refusal_of(pipeline: str, degrees: dict[str, int]) -> str:
    """What ``parallelize`` says to a pipeline that was not compared, on this rank."""
    import tokenring_xdit
    from tokenring_xdit.errors import UnsupportedError

    try:
        tokenring_xdit.parallelize(type(pipeline, (), {"__module__": "diffusers"})(), host="xfuser", **degrees)
    except UnsupportedError as error:
        return str(error)
    return ""
