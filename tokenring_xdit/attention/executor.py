"""Runs a proved program of a rank, and says what became of it; knows no schedule and no transport by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenring_xdit.attention.agreement import Layout
from tokenring_xdit.attention.groups import RingGroup
from tokenring_xdit.attention.kernels import CountedFunction, KernelFunction
from tokenring_xdit.attention.local import LocalAttention
from tokenring_xdit.attention.masks import KeyMask
from tokenring_xdit.attention.member import in_words
from tokenring_xdit.attention.observe import Observer
from tokenring_xdit.attention.rank_run import RankRun
from tokenring_xdit.attention.tracer import observer_of
from tokenring_xdit.attention.transport.base import Transport
from tokenring_xdit.attention.waits import Broken, GaveUp
from tokenring_xdit.schedule import VerifiedSchedule
from tokenring_xdit.schedule.lower import proved
from tokenring_xdit.schedule.lower.program import Pack, Post, Recv

__all__ = ["execute", "run_program"]


def execute(
    verified: VerifiedSchedule,
    layout: Layout,
    ring_group: RingGroup,
    kernel: KernelFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    joint_kv: tuple[Tensor, Tensor] | None = None,
    key_mask: KeyMask | None = None,
    joint_mask: KeyMask | None = None,
    counted: CountedFunction | None = None,
) -> tuple[Tensor, Tensor]:
    """Run this rank's program.

    Args:
        verified: The schedule.
        layout: What the ranks agreed on for these tensors.
        ring_group: The process group and its channels.
        kernel: Local attention.
        q: This rank's queries, ``[B, H, Sq, D]``.
        k: This rank's keys, ``[B, Hkv, Skv, D]``.
        v: This rank's values, ``[B, Hkv, Skv, D]``.
        joint_kv: Keys and values that every rank holds alike; each query attends them once, on its own rank.
        key_mask: Which keys of this rank count, where the items of the batch differ in that. Other masks
            have been applied before.
        joint_mask: The same for ``joint_kv``.
        counted: Local attention that takes the number of keys of each sample.

    Returns:
        Output ``[B, H, Sq, D]`` in the dtype of ``q``, log-sum-exp ``[B, H, Sq]`` in fp32.

    Raises:
        CommunicationError: A transfer failed, or the rank did on which it waits.
        Exception: Whatever the kernel raised. After any error the group is given up.
    """
    spec, transport, name = layout.spec, ring_group.transport, verified.schedule.name
    programs = proved(verified, layout.problem, in_order=transport.in_order)  # or refused, on all ranks alike
    attention = LocalAttention(kernel, spec.scale, counted)

    def begin(observer: Observer | None) -> RankRun:
        return RankRun(
            name,
            programs,
            transport,
            attention,
            q,
            k,
            v,
            partial_dtype=spec.partial_dtype,
            key_mask=key_mask,
            observer=observer,
        )

    return run_program(begin, ring_group, transport, q.device, f"in schedule '{name}'", joint_kv, joint_mask)


def run_program(
    begin: Callable[[Observer | None], RankRun],
    ring_group: RingGroup,
    transport: Transport,
    device: torch.device,
    where: str,
    joint_kv: tuple[Tensor, Tensor] | None = None,
    joint_mask: KeyMask | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a program that was proved; see :func:`execute`.

    Args:
        begin: Begins the run, with what is told of it.
        ring_group: The process group.
        transport: What carries messages, one of the group's.
        device: Where the tensors are.
        where: Where what fails has failed, for messages.
        joint_kv: Keys and values that every rank holds alike.
        joint_mask: Which of them count.
    """
    observer = observer_of(ring_group, device)
    run: RankRun | None = None
    try:
        run = begin(observer)
        if observer is not None:
            observer.begins(run.name, run.program)
        return run.run(joint_kv, joint_mask)
    except BaseException as error:
        # Transfers are under way: what comes next on these channels would take what this call left.
        if observer is not None:
            observer.failed()
        if transport.gave_up(error):
            error = GaveUp(str(error))
        if isinstance(error, Broken) or (isinstance(error, torch.AcceleratorError) and ring_group.lost()):
            transferring = run.transferring if run is not None else None
            sender = [transferring.peer] if isinstance(transferring, Recv) else []
            raise ring_group.failure(
                f"waited for {_in_words(transferring, ring_group)} {where}", error, sender
            ) from error
        if ring_group.world_size > 1:
            ring_group.fail(f"rank {ring_group.names[ring_group.rank]} failed {where}: {in_words(error)}")
        raise


def _in_words(transferring: Post | Pack | Recv | str | None, group: RingGroup) -> str:
    if isinstance(transferring, Recv):
        return f"{transferring} from rank {group.names[transferring.peer]}"
    if isinstance(transferring, Post):
        return f"room for {transferring}"
    if isinstance(transferring, Pack):
        return f"room for {transferring.block}"
    return transferring or "messages that are still being sent"
