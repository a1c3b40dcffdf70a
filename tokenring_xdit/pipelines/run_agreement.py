"""One run of all ranks: nodes read files of their own, which have to say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenring_xdit.attention import exchange
from tokenring_xdit.errors import AgreementError

__all__ = ["refuse_differing"]


def refuse_differing(mine: Mapping[str, Any]) -> None:
    """Refuse, on all ranks, configs that differ.

    Args:
        mine: What this rank was given, by key, as plain data.

    Raises:
        AgreementError: Another rank was given something else.
    """
    everyone = exchange(None, dict(mine), "the config of a run")
    for rank, theirs in enumerate(everyone):
        for key, value in everyone[0].items():
            if theirs.get(key) != value:
                raise AgreementError(
                    f"all ranks make one run together, but {key} is {value!r} on rank 0 and {theirs.get(key)!r} on "
                    f"rank {rank}: give every node the same config"
                )
