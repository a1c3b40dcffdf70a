"""What the figures of a checkup mean, in plain sentences. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tokenring_xdit.bench.plan import Level
from tokenring_xdit.bench.records import Record, Status
from tokenring_xdit.doctor.cases import ERROR_LIMITS
from tokenring_xdit.doctor.machines import MachineFacts, NodeFacts
from tokenring_xdit.doctor.record import Checkup, ExactnessResult, Finding, Grade, PartState
from tokenring_xdit.schedule import ALGORITHMS
from tokenring_xdit.topology.smi import NO_PROGRAM

__all__ = ["findings", "remarks_on_machine"]

_OLD_TORCH = (2, 8)
_FAST_TORCH = (2, 13)
_GIB = 1 << 30
_PART = re.compile(r"\bMIG\b")


def findings(checkup: Checkup) -> tuple[Finding, ...]:
    """What all of a checkup means, what is wrong first."""
    found = [
        *_of_parts(checkup),
        *_of_exactness(checkup),
        *_of_kernels(checkup),
        *_of_strategies(checkup),
        *(remarks_on_machine(checkup.machine) if checkup.machine is not None else ()),
        *_of_nodes(checkup.nodes),
        *_of_topology(checkup),
    ]
    order = (Grade.WRONG, Grade.NOTE, Grade.FINE)
    return tuple(sorted(found, key=lambda finding: order.index(finding.grade)))


def remarks_on_machine(machine: MachineFacts) -> Iterator[Finding]:
    """What a machine has and what it lacks, and what that means."""
    if not machine.gpus:
        seen = f"torch sees none ({machine.cuda_said})" if machine.cuda_said else "torch sees none"
        built = "torch is a build without CUDA" if machine.cuda is None else seen
        yield Finding(
            grade=Grade.NOTE,
            said=f"No GPU: {built}. Everything ran on the CPU, over gloo; its times say nothing about GPUs. CUDA "
            "graphs, of calls and of steps (captured+STRATEGY), were left out.",
            advice=_advice_without_gpus(machine),
        )
    else:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
        memory = min(gpu.memory_bytes for gpu in machine.gpus) / _GIB
        count = len(machine.gpus)
        yield Finding(
            grade=Grade.FINE,
            said=f"{count} GPU{'' if count == 1 else 's'}: {names}, {memory:.0f} GiB each at least.",
        )
        if count == 1:
            yield Finding(
                grade=Grade.NOTE,
                said="One GPU: ranks need one each, so schedules were checked on the processor, over gloo, and CUDA "
                "graphs (captured+STRATEGY) were left out.",
            )
        yield from _of_peers(machine)
        if count > 1 and machine.nccl is None:
            yield Finding(
                grade=Grade.WRONG,
                said="This torch is built without NCCL, over which ranks on GPUs talk.",
                advice="Install a build of torch that has it, as those of pytorch.org for Linux do.",
            )
        parts = next((gpu.name for gpu in machine.gpus if _PART.search(gpu.name)), None)
        if parts is not None:
            yield Finding(
                grade=Grade.NOTE,
                said=f"{parts} is a part of a GPU (MIG): a process sees one, and none reaches the memory of another.",
                advice="Ranks need whole GPUs: ask who runs the machine to turn MIG off.",
            )
        old = sorted({gpu.capability for gpu in machine.gpus if gpu.capability < (8, 0)})
        if old:
            yield Finding(
                grade=Grade.NOTE,
                said=f"Compute capability {old[0][0]}.{old[0][1]}: the fast kernels need 8.0, so the memory-efficient "
                "one runs, several times slower.",
            )
        if machine.versions.get("flash-attn") is None:
            yield Finding(
                grade=Grade.NOTE,
                said="flash-attn is not installed: torch's own kernels run. On Hopper torch's cuDNN kernel is as fast.",
            )
    yield from _of_torch(machine)


def _advice_without_gpus(machine: MachineFacts) -> str:
    if machine.driver is not None and machine.cuda is None:
        return "There is a GPU driver: install a build of torch for its CUDA."
    broken = machine.driver is None and machine.smi_said and NO_PROGRAM not in machine.smi_said
    return f"If it has GPUs, look at their driver. {machine.smi_said}" if broken else ""


def _of_nodes(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    if not nodes:
        return
    words = "; ".join(map(str, nodes))
    yield Finding(grade=Grade.FINE, said=f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {words}.")
    for what, found in (("torch", {node.torch for node in nodes}), ("GPUs", {node.device for node in nodes})):
        if len(found) > 1:
            yield Finding(
                grade=Grade.NOTE,
                said=f"The nodes differ in {what}: {', '.join(sorted(found))}; the slowest decides what a call takes.",
            )
    if len(nodes) > 1:
        yield Finding(
            grade=Grade.NOTE,
            said=f"Versions, GPUs and kernels are those of the first node, {nodes[0].host}: look at the others there.",
        )


def _of_peers(machine: MachineFacts) -> Iterator[Finding]:
    count = len(machine.gpus)
    if count < 2:
        return
    missing = count * (count - 1) - len(machine.peers)
    if not missing:
        yield Finding(grade=Grade.FINE, said="Every GPU reaches the memory of every other one (P2P).")
    else:
        some = (
            "No GPU reaches" if not machine.peers else f"{missing} of {count * (count - 1)} pairs of GPUs do not reach"
        )
        yield Finding(
            grade=Grade.NOTE,
            said=f"{some} the memory of another (no P2P): NCCL goes through main memory, which is slower.",
            advice="P2P is off on most consumer cards, in most virtual machines, and behind an IOMMU or PCIe's access "
            "control (ACS): ask who runs the machine.",
        )


def _of_torch(machine: MachineFacts) -> Iterator[Finding]:
    text = machine.versions.get("torch")
    if text is None:
        return
    version = tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdecimal())
    if version < _OLD_TORCH:
        yield Finding(
            grade=Grade.WRONG,
            said=f"torch {text} is older than 2.8, the oldest that this package passes its tests with.",
            advice="Install torch 2.8 or later.",
        )
    elif version < _FAST_TORCH:
        yield Finding(
            grade=Grade.NOTE, said=f"torch {text}: this package is developed with torch 2.13; it works from 2.8 on."
        )


def _of_parts(checkup: Checkup) -> Iterator[Finding]:
    for part in checkup.parts:
        if part.state is PartState.FAILED:
            yield Finding(grade=Grade.WRONG, said=f"Part '{part.name}' failed: {part.said}")
        elif part.state in {PartState.CUT_SHORT, PartState.IMPOSSIBLE, PartState.SKIPPED}:
            yield Finding(grade=Grade.NOTE, said=f"Part '{part.name}', {part.state.value}: {part.said}.")


def _of_exactness(checkup: Checkup) -> Iterator[Finding]:
    by_name: dict[str, list[ExactnessResult]] = {}
    for result in checkup.exactness:
        by_name.setdefault(result.schedule.partition(":")[0], []).append(result)
    fine = []
    for name, results in by_name.items():
        bad = [result for result in results if not result.exact]
        if not bad:
            fine.append(name)
            continue
        worst = max(bad, key=lambda result: (result.error is None, result.error or 0.0))
        what = f"is off by {worst.error:.1e}" if worst.error is not None else f"failed: {worst.said}"
        yield Finding(
            grade=Grade.WRONG,
            said=f"Schedule '{worst.schedule}' ({worst.mask}, {worst.problem}, {worst.dtype}) {what}. "
            f"{len(bad)} of its {len(results)} calls differ from softmax in fp64.",
            advice=f"Do not use '{name}' on this machine, and send us doctor.json.",
        )
    if any(part.name == "exactness" and part.state is PartState.DONE for part in checkup.parts):
        left = [name for name in ALGORITHMS if name not in by_name]
        if left:
            yield Finding(grade=Grade.NOTE, said=f"Not defined for {checkup.ranks} ranks: {', '.join(left)}.")
    if fine:
        errors = [result.error for name in fine for result in by_name[name] if result.error is not None]
        as_far = " as far as it was checked" if "exactness" in checkup.cut_short else ""
        share = f"; the largest error is {max(errors):.1e} of the output's scale" if errors else ""
        yield Finding(
            grade=Grade.FINE,
            said=f"Exact{as_far} on {checkup.ranks} ranks over {checkup.backend}: {', '.join(fine)}{share}.",
        )


def _of_kernels(checkup: Checkup) -> Iterator[Finding]:
    for timing in checkup.kernels:
        if not timing.exact:
            what = timing.said if timing.error is None else f"is off by {timing.error:.1e}"
            yield Finding(
                grade=Grade.WRONG,
                said=f"Kernel '{timing.kernel}' in {timing.dtype} {what}.",
                advice="Ask for another kernel, and send us doctor.json.",
            )
    ran = [timing for timing in checkup.kernels if timing.flops is not None and timing.exact]
    for dtype in dict.fromkeys(timing.dtype for timing in ran):
        best = max((timing for timing in ran if timing.dtype == dtype), key=lambda timing: timing.flops or 0.0)
        yield Finding(
            grade=Grade.FINE,
            said=f"Fastest kernel in {dtype}: '{best.kernel}', {(best.flops or 0.0) / 1e12:.3g} TFLOP/s at "
            f"{best.problem}.",
        )
    for launch in checkup.launches:
        if launch.said:
            yield Finding(grade=Grade.WRONG, said=f"Calls of few tokens of '{launch.schedule}' failed: {launch.said}")


def _of_strategies(checkup: Checkup) -> Iterator[Finding]:
    titles: dict[str, list[Record]] = {}
    for record in checkup.strategies:
        title = checkup.title(record)
        if record.status is Status.FAILED:
            said = (record.error or "").partition("\n")[0]
            yield Finding(grade=Grade.WRONG, said=f"Strategy '{record.strategy}' failed, {title}: {said}")
        elif record.max_error is not None and record.level == Level.ATTENTION.value:
            limit = next(limit for dtype, limit in ERROR_LIMITS.items() if dtype == record.dtype)
            if not record.max_error <= limit:  # NaN too
                said = f"Strategy '{record.strategy}' is off by {record.max_error:.1e}, {title}."
                yield Finding(grade=Grade.WRONG, said=said)
        if record.seconds is not None:
            titles.setdefault(title, []).append(record)
    for title, records in titles.items():
        ordered = sorted(records, key=_median)
        times = ", ".join(f"{record.strategy} {_median(record) * 1e3:.3g} ms" for record in ordered)
        first = "Fastest first" if len(ordered) > 1 else "Time"
        yield Finding(grade=Grade.FINE, said=f"{first}, {title}: {times}.")


def _median(record: Record) -> float:
    return record.seconds.median if record.seconds is not None else float("inf")


def _of_topology(checkup: Checkup) -> Iterator[Finding]:
    if checkup.topology is None:
        yield Finding(
            grade=Grade.NOTE,
            said=f"No topology file was written: {checkup.topology_said or 'the ranks have no links'}.",
            advice="Schedule auto tries some schedules then, and keeps the fastest.",
        )
    else:
        yield Finding(grade=Grade.FINE, said=f"Topology: {checkup.topology_said}.")
