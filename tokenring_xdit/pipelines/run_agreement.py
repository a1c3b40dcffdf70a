"""One run of all ranks: nodes read files of their own, which have to say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenring_xdit.attention import exchange
from tokenring_xdit.hosts.agreement import refuse_differing

__all__ = ["agree_on_config"]


def agree_on_config(mine: Mapping[str, Any]) -> None:
    """Refuse, on all ranks, configs that differ.

    Args:
        mine: What this rank was given, by key, as plain data.

    Raises:
        AgreementError: Another rank was given something else.
    """
    everyone = exchange(None, {key: repr(value) for key, value in mine.items()}, "the config of a run")
    refuse_differing(everyone, "make one run", "give every node the same config")
