"""What ranks have to agree on before they exchange blocks, and how they find out that they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.errors import AgreementError

__all__ = ["CallSpec", "Layout", "agree", "handshake"]

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
        home_length: Keys that every rank holds alike.
        q_length: Query tokens on this rank.
        kv_length: Key tokens on this rank.
        ragged: Whether the items of the batch hide different keys on this rank.
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
    home_length: int
    q_length: int
    kv_length: int
    ragged: bool = False


@dataclass(frozen=True)
class Layout:
    """What all ranks agreed on: one :class:`CallSpec`, the shard lengths of every rank, and whether any is ragged."""

    spec: CallSpec
    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    ragged: bool = False


def agree(reports: Sequence[CallSpec | str]) -> Layout:
    """Combine the reports of all ranks; a pure function, so that all ranks come to the same end.

    Args:
        reports: For each rank what it is about to do, or, as a string, why it cannot.

    Raises:
        AgreementError: The ranks do not fit together; the message names who differs in what.
    """
    problems = [f"rank {rank}: {report}" for rank, report in enumerate(reports) if isinstance(report, str)]
    if problems:
        raise AgreementError("attention was refused: " + "; ".join(problems))
    specs = [report for report in reports if isinstance(report, CallSpec)]
    differences = []
    for field in fields(CallSpec):
        values: dict[Any, list[int]] = {}
        for rank, spec in enumerate(specs):
            values.setdefault(getattr(spec, field.name), []).append(rank)
        if field.name not in _OWN and len(values) > 1:
            sides = ", ".join(f"{value} on rank {_ranks(ranks)}" for value, ranks in values.items())
            differences.append(f"{field.name.replace('_', ' ')} is {sides}")
    if differences:
        raise AgreementError(
            "the ranks of this group called attention differently: "
            + "; ".join(differences)
            + ". Only the shard lengths may differ between ranks."
        )
    q_lengths = tuple(spec.q_length for spec in specs)
    kv_lengths = tuple(spec.kv_length for spec in specs)
    if not _fits_mask(specs[0], q_lengths, kv_lengths):
        raise AgreementError(
            "causal attention needs as many queries as keys on every rank, got "
            f"{list(q_lengths)} queries and {list(kv_lengths)} keys"
        )
    return Layout(specs[0], q_lengths, kv_lengths, any(spec.ragged for spec in specs))


def _ranks(ranks: list[int]) -> str:
    return " and ".join([", ".join(map(str, ranks[:-1])), str(ranks[-1])]) if len(ranks) > 1 else str(ranks[0])


@lru_cache(maxsize=1024)
def _digest(spec: CallSpec) -> int:
    """A positive number for everything in a call that has to be the same on all ranks."""
    same = repr(replace(spec, q_length=0, kv_length=0, ragged=False))
    return int.from_bytes(hashlib.sha256(same.encode()).digest()[:7]) + 1


def handshake(report: CallSpec | str, control: dist.ProcessGroup | None, timeout: timedelta | None) -> Layout:
    """Agree with all ranks of a group on a call.

    Four numbers to each other rank where they do agree; only where they do not, the reports
    themselves are exchanged, to say who differs in what.

    Args:
        report: This rank's call, or why it refuses.
        control: A gloo group of the ranks concerned; ``None`` for a single rank.
        timeout: Bound on the wait; ``None`` is the group's own.

    Raises:
        AgreementError: The same on every rank.
        RuntimeError: From torch, when a rank does not come.
    """
    if control is None:
        return agree([report])
    own = (0, 0, 0, 0)
    if isinstance(report, CallSpec):
        own = (_digest(report), report.q_length, report.kv_length, int(report.ragged))
    digests, q_lengths, kv_lengths, ragged = zip(*_tell_all(own, control, timeout), strict=True)
    if not isinstance(report, CallSpec) or len(set(digests)) > 1 or not _fits_mask(report, q_lengths, kv_lengths):
        reports: list[Any] = [None] * dist.get_world_size(control)
        dist.all_gather_object(reports, report, group=control)
        return agree(reports)
    return Layout(report, q_lengths, kv_lengths, any(ragged))


def _tell_all(own: tuple[int, ...], control: dist.ProcessGroup, timeout: timedelta | None) -> list[list[int]]:
    """The numbers of every rank. Straight to each of them: a collective of gloo passes them on, hop by hop."""
    rank, mine = control.rank(), torch.tensor(own)
    heads = [mine if peer == rank else torch.empty_like(mine) for peer in range(control.size())]
    peers = [peer for peer in range(control.size()) if peer != rank]
    works = [control.recv([heads[peer]], peer, 0) for peer in peers]
    works += [control.send([mine], peer, 0) for peer in peers]
    for work in works:
        work.wait(timeout) if timeout is not None else work.wait()
    return [head.tolist() for head in heads]


def _fits_mask(spec: CallSpec, q_lengths: tuple[int, ...], kv_lengths: tuple[int, ...]) -> bool:
    return spec.mask != "causal" or q_lengths == kv_lengths
