"""What ranks have to agree on before they exchange blocks, and how they find out that they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from tokenring_xdit.attention.transport.choice import Wanted
from tokenring_xdit.errors import AgreementError
from tokenring_xdit.schedule.problem import Problem

__all__ = ["CallSpec", "Layout", "agree", "digest", "refuse_other_calls", "same_lengths_where_needed"]

_OWN = frozenset({"q_length", "kv_length", "ragged"})
"""Fields that may differ between ranks."""


@dataclass(frozen=True)
class CallSpec:
    """One rank's view of an attention call; everything but the shard lengths has to be the same.

    Attributes:
        schedule: Name of the schedule.
        plan: Fingerprint of its plan.
        mask: Value of its mask.
        dtype: Dtype of queries, keys and values.
        partial_dtype: Dtype in which partial outputs travel.
        device: Device type.
        batch: Batch size.
        heads: Query heads.
        kv_heads: Key/value heads.
        head_dim: Size of a head.
        scale: Factor on the scores, ``None`` for the default.
        joint_length: Keys that every rank holds alike.
        q_length: Query tokens on this rank.
        kv_length: Key tokens on this rank.
        ragged: Whether the samples of the batch have different key masks on this rank.
        transport: What is asked to carry its blocks, a value of ``Wanted``.
    """

    schedule: str
    plan: str
    mask: str
    dtype: torch.dtype
    partial_dtype: torch.dtype
    device: str
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float | None
    joint_length: int
    q_length: int
    kv_length: int
    ragged: bool = False
    transport: str = Wanted.PROCESS_GROUPS.value

    def to_plain(self) -> dict[str, Any]:
        """Its fields as plain data; dtypes by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for n, v in values.items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> CallSpec:
        """What :meth:`to_plain` was called on."""
        return cls(**{n: getattr(torch, v) if n.endswith("dtype") else v for n, v in values.items()})


@dataclass(frozen=True)
class Layout:
    """What all ranks agreed on: one :class:`CallSpec`, the shard lengths of every rank, and whether any is ragged."""

    spec: CallSpec
    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    ragged: bool = False

    @cached_property
    def problem(self) -> Problem:
        """The shapes of the call."""
        spec = self.spec
        sizes = spec.dtype.itemsize, spec.partial_dtype.itemsize
        return Problem(self.q_lengths, self.kv_lengths, spec.heads, spec.kv_heads, spec.head_dim, spec.batch, *sizes)


def agree(reports: Sequence[CallSpec | str], names: Sequence[str] | None = None) -> Layout:
    """Combine the reports of all ranks; a pure function, so that all ranks come to the same end.

    Args:
        reports: For each rank what it is about to do, or, as a string, why it cannot.
        names: What to call each rank; their numbers in the group by default.

    Raises:
        AgreementError: The ranks do not fit together; the message names who differs in what.
    """
    names = names or [str(rank) for rank in range(len(reports))]
    problems = [f"rank {names[rank]}: {report}" for rank, report in enumerate(reports) if isinstance(report, str)]
    if problems:
        raise AgreementError("attention was refused: " + "; ".join(problems))
    specs = [report for report in reports if isinstance(report, CallSpec)]
    differences = []
    for field in fields(CallSpec):
        values: dict[Any, list[int]] = {}
        for rank, spec in enumerate(specs):
            values.setdefault(getattr(spec, field.name), []).append(rank)
        if field.name not in _OWN and len(values) > 1:
            sides = ", ".join(f"{value} on rank {_ranks(ranks, names)}" for value, ranks in values.items())
            differences.append(f"{field.name.replace('_', ' ')} is {sides}")
    if differences:
        raise AgreementError(
            "the ranks of this group called attention differently: "
            + "; ".join(differences)
            + ". Only the shard lengths may differ between ranks."
        )
    q_lengths = tuple(spec.q_length for spec in specs)
    kv_lengths = tuple(spec.kv_length for spec in specs)
    if not same_lengths_where_needed(specs[0], q_lengths, kv_lengths):
        raise AgreementError(
            "causal attention needs as many queries as keys on every rank, got "
            f"{list(q_lengths)} queries and {list(kv_lengths)} keys"
        )
    return Layout(specs[0], q_lengths, kv_lengths, any(spec.ragged for spec in specs))


def _ranks(ranks: list[int], names: Sequence[str]) -> str:
    *others, last = [names[rank] for rank in ranks]
    return f"{', '.join(others)} and {last}" if others else last


@lru_cache(maxsize=1024)
def digest(what: CallSpec | str) -> int:
    """A positive number for everything in a call that has to be the same on all ranks."""
    same = repr(replace(what, q_length=0, kv_length=0, ragged=False)) if isinstance(what, CallSpec) else what
    return int.from_bytes(hashlib.sha256(same.encode()).digest()[:7], "big") + 1


def same_lengths_where_needed(spec: CallSpec, q_lengths: tuple[int, ...], kv_lengths: tuple[int, ...]) -> bool:
    """Whether the shards fit the mask."""
    return spec.mask != "causal" or q_lengths == kv_lengths


def refuse_other_calls(calls: Sequence[tuple[int, str, str | None]], names: Sequence[str]) -> None:
    """Refuse ranks that are not at the same call of their group.

    Args:
        calls: For each rank the number of its call, what it is, and why it cannot be made, if so.
        names: What to call each rank.

    Raises:
        AgreementError: They are not; the message names who is where.
    """
    where: dict[tuple[int, str], list[int]] = {}
    for rank, (number, what, _) in enumerate(calls):
        where.setdefault((number, what), []).append(rank)
    if len(where) == 1:
        return
    sides = ", ".join(
        f"rank {_ranks(ranks, names)} {'is' if len(ranks) == 1 else 'are'} at call {number}, {what}"
        for (number, what), ranks in where.items()
    )
    refused = "".join(f"; rank {names[rank]} refused its own: {why}" for rank, (_, _, why) in enumerate(calls) if why)
    raise AgreementError(
        f"the ranks of this group are not at the same call: {sides}{refused}. All ranks have to make the same calls in "
        "the same order; an error that only some of them caught is the usual reason"
    )
