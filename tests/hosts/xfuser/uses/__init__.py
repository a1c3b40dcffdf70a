"""What people do with a pipeline round ``parallelize``; each use is tried in every family (``docs/support.md``)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hosts.xfuser.uses import afterwards, arguments, callbacks, ip_adapter, lora, schedulers, transformer
from tests.hosts.xfuser.uses.harness import Trial, Use, rounding, trial
from tests.hosts.xfuser.uses.judging import OFF, Kind, Outcome, forgiven, judge
from tests.support.families import FAMILIES
from tests.support.ranks import RankPool

__all__ = ["GROUPS", "USES", "Kind", "Outcome", "Trial", "Use", "cases", "judge", "outcome_of", "refusal_of", "tried"]

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

_FAMILIES = [family for family in FAMILIES if family != "flux-runner"]


def cases() -> Iterator[tuple[str, str]]:
    """Key of a use and of a family."""
    for key, use in USES.items():
        for family in _FAMILIES:
            if use.families is None or family in use.families:
                yield key, family


def tried(key: str, family: str, host: str = "xfuser") -> Trial:
    """What comes of a use on this rank."""
    return trial(USES[key], family, host)


def rounded(key: str, family: str) -> float:
    """What :func:`rounding` finds for a use."""
    return rounding(USES[key], family)


def outcome_of(ranks: RankPool, key: str, family: str, host: str = "xfuser") -> Outcome:
    """How a use goes on two ranks.

    Args:
        ranks: The ranks.
        key: The use.
        family: Key of the family.
        host: Which host spreads it.
    """
    outcome = judge(USES[key], ranks.run(2, tried, key, family, host, timeout=150))
    if outcome.kind is Kind.WRONG and outcome.text.startswith(OFF):
        (single,) = ranks.run(1, rounded, key, family, timeout=150)
        outcome = forgiven(outcome, single)
    return outcome


def refusal_of(pipeline: str, degrees: dict[str, int]) -> str:
    """What ``parallelize`` says to a pipeline that was not compared, on this rank."""
    import tokenring_xdit
    from tokenring_xdit.errors import UnsupportedError

    try:
        tokenring_xdit.parallelize(type(pipeline, (), {})(), host="xfuser", **degrees)
    except UnsupportedError as error:
        return str(error)
    return ""
