"""The attention call itself, for users with and without xfuser."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import CallSpec, Layout
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.checks import DTYPES, check_masks, check_tensors, check_types, resolve
from tokenring_xdit.attention.executor import execute
from tokenring_xdit.attention.groups import Channels, RingGroup, group_of
from tokenring_xdit.attention.kernels import CountedFunction, KernelFunction, choose
from tokenring_xdit.attention.masks import DeviceKeyMask, KeyMask
from tokenring_xdit.attention.member import check_environment, failing_together, in_words
from tokenring_xdit.attention.tracing import recorded
from tokenring_xdit.attention.transport.choice import wanted
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import AgreementError, CommunicationError, TokenRingError, UnsupportedError
from tokenring_xdit.schedule import Activity, Auto, Mask, VerifiedSchedule

__all__ = ["bytes_sent", "token_ring_attention"]


def token_ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    schedule: str | VerifiedSchedule = DEFAULT_SCHEDULE,
    kernel: str | KernelFunction | None = None,
    scale: float | None = None,
    causal: bool = False,
    key_mask: KeyMask | Tensor | None = None,
    joint_kv: tuple[Tensor, Tensor] | None = None,
    joint_mask: KeyMask | Tensor | None = None,
    partial_dtype: torch.dtype | None = None,
    cache_key: Hashable | None = None,
) -> tuple[Tensor, Tensor]:
    """Exact attention over a sequence that is sharded across the ranks of a group.

    Every rank calls it with its own shard, at the same time. Shard lengths may differ between
    ranks, and queries may be more or fewer than keys; everything else has to be the same, which the
    ranks check among themselves before anything is sent.

    Args:
        q: This rank's queries, ``[B, H, Sq, D]``; fp32, bf16 or fp16, any strides. Tensors that
            would record gradients are refused.
        k: This rank's keys, ``[B, Hkv, Skv, D]``; ``H`` is a multiple of ``Hkv``.
        v: This rank's values, ``[B, Hkv, Skv, D]``.
        group: Process group; ``None`` is the default group.
        schedule: Name of a schedule, with options as in ``direct:chunks=4`` (see ``tokenring-xdit schedule
            list`` and ``docs/schedules.md``), one of your own that passed :func:`tokenring_xdit.schedule.verify`,
            or ``auto`` (``auto:measure=true``), which chooses one for the shapes (``docs/planner.md``).
        kernel: Local attention: a name (see :data:`tokenring_xdit.attention.kernels.KERNELS`), a
            function of that form, or ``None`` for the best one for the device.
        scale: Factor on the scores; ``None`` is ``1 / sqrt(D)``.
        causal: Whether a query sees the keys up to its own position only, shards being consecutive.
        key_mask: Which of this rank's keys count, bool ``[B, Skv]`` or ``[1, Skv]``: padding and
            masked text are left out. Pass a :class:`KeyMask` that many calls share, and a
            :class:`DeviceKeyMask` in a call that is recorded and replayed with other masks.
        joint_kv: Keys and values ``[B, Hkv, T, D]`` that are the same on every rank, such as replicated
            text tokens: counted once for each query and never sent.
        joint_mask: Which of the keys of ``joint_kv`` count.
        partial_dtype: Dtype in which partial outputs travel; ``None`` is the dtype of ``q``.
        cache_key: Anything hashable that is the same on all ranks and changes whenever the shapes
            change on any of them, such as the length of the whole sequence. Calls with a key and
            shapes that were agreed on before skip the check, a small collective on the CPU.

    Returns:
        Output ``[B, H, Sq, D]`` in the dtype of ``q``, and the log-sum-exp of the scaled scores
        ``[B, H, Sq]`` in fp32. A query that attended no key at all has output 0 and log-sum-exp ``-inf``.

    Raises:
        AgreementError: A rank refuses its input, or the ranks differ; the same error on every rank.
        CommunicationError: A rank is gone, is stopped, failed or did not arrive; the message names it.
        ConfigurationError: torch.distributed is not initialised.
    """
    ring_group = group_of(group)
    ring_group.begin()
    report: CallSpec | str
    channels: Channels = ()
    auto: Auto | None = None
    verified: VerifiedSchedule | None = None
    mistake: Exception | None = None
    device = torch.device("cpu")
    try:
        check_environment()
        check_types(
            q,
            k,
            v,
            kernel=kernel,
            scale=scale,
            causal=causal,
            key_mask=key_mask,
            joint_kv=joint_kv,
            joint_mask=joint_mask,
            partial_dtype=partial_dtype,
            cache_key=cache_key,
        )
        device = q.device
        check_tensors(q, k, v, joint_kv)
        auto = Auto.parse(schedule) if isinstance(schedule, str) else None
        if auto is None:
            verified = resolve(schedule, ring_group.world_size, causal, math.gcd(q.shape[1], k.shape[1]))
            channels = verified.schedule.needs
        elif ring_group.world_size % auto.nodes:
            raise UnsupportedError(
                f"schedule '{auto}' is for multiples of {auto.nodes} ranks, not {ring_group.world_size}"
            )
        function, counted = _functions(kernel, q, any(isinstance(m, DeviceKeyMask) for m in (key_mask, joint_mask)))
        own, home = check_masks(k, joint_kv, key_mask, joint_mask, causal, verified)
        if own is not None:
            k, v = own.select(k, v)
        if joint_kv is not None and home is not None:
            joint_kv = home.select(*joint_kv)
        report = _spec(q, k, v, verified or auto, causal, scale, joint_kv, partial_dtype)
        report = replace(report, ragged=own is not None and own.ragged)
    except Exception as error:  # told to all ranks, so that none of them waits for this one
        report = str(error) if isinstance(error, TokenRingError) else in_words(error)
        channels, cache_key, mistake = (), None, error
    except BaseException as error:  # who ends a program does not wait until all have heard
        ring_group.fail(
            f"rank {ring_group.names[ring_group.rank]} was ended in call {ring_group.call}: {in_words(error)}"
        )
        raise
    with recorded(Activity.WAIT, "agreement"):
        layout = _settle(ring_group, report, channels, device, cache_key, mistake)
    if verified is not None:
        return execute(verified, layout, ring_group, function, q, k, v, joint_kv, own, home, counted)
    assert auto is not None
    with failing_together(ring_group, "choosing a schedule"):
        trial = AutoSchedule.of(ring_group).trial(auto, layout, q.device)
    start = 0.0 if trial.decided else _now(q.device)
    result = execute(trial.schedule, layout, ring_group, function, q, k, v, joint_kv, own, home, counted)
    if not trial.decided:
        with failing_together(ring_group, "comparing schedules"):
            AutoSchedule.of(ring_group).timed(trial, layout, _now(q.device) - start)
    return result


def _settle(
    ring_group: RingGroup,
    report: CallSpec | str,
    channels: Channels,
    device: torch.device,
    cache_key: Hashable | None,
    mistake: Exception | None,
) -> Layout:
    """What the ranks agree on; where this one refuses, its own mistake is the cause of what it raises."""
    with failing_together(ring_group, "agreeing on a call"):
        try:
            return ring_group.settle_layout(report, channels, device, cache_key)
        except AgreementError as error:
            raise error from mistake
        except CommunicationError as error:
            if mistake is None:
                raise
            raise AgreementError(
                f"attention was refused: rank {ring_group.names[ring_group.rank]}: {report}. This group was closed, "
                f"because not all of its ranks heard of it in time: {error}"
            ) from mistake


def _functions(
    kernel: str | KernelFunction | None, q: Tensor, counting: bool
) -> tuple[KernelFunction, CountedFunction | None]:
    """What attends, and what does so where the keys of each item are counted on the device, if there is such."""
    if kernel is not None and not isinstance(kernel, str):
        if counting:
            raise UnsupportedError(
                "a function as the kernel cannot read a DeviceKeyMask: pass no kernel, the name of one that reads key "
                "counts on the device, or a KeyMask"
            )
        return kernel, None
    chosen = choose(kernel, q.device, q.dtype, q.shape[3], counting=counting)
    return chosen.run, chosen.counted


def _now(device: torch.device) -> float:
    """Seconds on a clock, once what was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bytes_sent(group: dist.ProcessGroup | None = None) -> int:
    """Payload bytes that this rank has sent for attention over ``group`` since the program started."""
    return RingGroup.of(group).bytes_sent


def _spec(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: VerifiedSchedule | Auto | None,
    causal: bool,
    scale: float | None,
    joint_kv: tuple[Tensor, Tensor] | None,
    partial_dtype: torch.dtype | None,
) -> CallSpec:
    """Check one rank's tensors and describe the call."""
    others = (k, v, *(joint_kv or ()))
    if any(t.dtype != q.dtype or t.device != q.device for t in others):
        raise UnsupportedError(
            "q, k, v and joint_kv need one dtype and one device, got "
            + ", ".join(f"{t.dtype} on {t.device}" for t in (q, *others))
        )
    for name, dtype in (("q", q.dtype), ("partial_dtype", partial_dtype or q.dtype)):
        if dtype not in DTYPES:
            raise UnsupportedError(f"{name} has dtype {dtype}; supported: {', '.join(map(str, DTYPES))}")
    if joint_kv is not None:
        joint_k, joint_v = joint_kv
        expected = (k.shape[0], k.shape[1], k.shape[3])
        if joint_k.shape != joint_v.shape or joint_k.ndim != 4 or (*joint_k.shape[:2], joint_k.shape[3]) != expected:
            raise UnsupportedError(
                f"joint_kv has to be [B, Hkv, T, D] like k, got {tuple(joint_k.shape)} and "
                f"{tuple(joint_v.shape)}; k {tuple(k.shape)}"
            )
        if causal:
            raise UnsupportedError("joint_kv has no position in a causal sequence: pass causal=False or no joint_kv")
    if isinstance(chosen, VerifiedSchedule):
        name, fingerprint = chosen.schedule.name, chosen.fingerprint
        if not chosen.takes_heads(q.shape[1], k.shape[1]):
            raise UnsupportedError(
                f"schedule '{name}' cuts heads in {chosen.head_cut}, which {q.shape[1]} query heads and "
                f"{k.shape[1]} key heads do not allow"
            )
    else:
        name, fingerprint = str(chosen), ""
    return CallSpec(
        schedule=name,
        plan=fingerprint,
        mask=(Mask.CAUSAL if causal else Mask.FULL).value,
        dtype=q.dtype,
        partial_dtype=partial_dtype or q.dtype,
        device=q.device.type,
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        head_dim=q.shape[3],
        scale=scale,
        joint_length=0 if joint_kv is None else joint_kv[0].shape[2],
        q_length=q.shape[2],
        kv_length=k.shape[2],
        transport=wanted().value,
    )
