"""A checkup from start to end: part by part, each within its time; one that fails keeps no other from running."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tokenring_xdit import __version__
from tokenring_xdit.doctor.cases import CheckupPart, CheckupPlan, Step
from tokenring_xdit.doctor.commands import LookAround
from tokenring_xdit.doctor.exactness import check_schedules
from tokenring_xdit.doctor.findings import findings
from tokenring_xdit.doctor.links import measure_links
from tokenring_xdit.doctor.machines import NodeFacts
from tokenring_xdit.doctor.pools import SOLO, WORLD, Ranks, TorchrunRanks
from tokenring_xdit.doctor.record import Checkup, PartOutcome, PartState
from tokenring_xdit.doctor.timing import attention_sweep, step_sweep, sweep, time_calls, time_kernels
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.topology import network_to_mapping, network_to_yaml
from tokenring_xdit.topology.files import network_from_mapping
from tokenring_xdit.topology.smi import NVIDIA_SMI

__all__ = ["SWEEP_FOLDERS", "TOPOLOGY_FILE", "check_up", "impossible"]

log = logging.getLogger(__name__)

TOPOLOGY_FILE = "topology.yaml"

SWEEP_FOLDERS = {CheckupPart.STRATEGIES: "strategies", CheckupPart.STEP: "step"}
"""Of what sweeps measure, beside the other files."""

_ALONE = frozenset({CheckupPart.KERNELS, *SWEEP_FOLDERS})
"""Parts with processes of their own; in exclusive mode GPUs take no second one, and beside it times would be others."""

_SURVEY = "machine"
_LOOK_TIMEOUT = 120.0

_SHARES: Mapping[CheckupPart, float] = {CheckupPart.EXACTNESS: 0.4, CheckupPart.LINKS: 0.3, CheckupPart.KERNELS: 0.3}
"""Of the whole time, at most; the others take what is left."""


class _TimeIsUpError(Exception):
    """A part has no time left."""


def impossible(plan: CheckupPlan, part: CheckupPart) -> str | None:
    """Why a part cannot run on this machine, or ``None`` where it can."""
    if plan.gpus == 1 and not plan.on_gpus:
        if part is CheckupPart.LINKS:
            return "this machine has one GPU, with nothing to measure between it and another"
        if part is CheckupPart.STRATEGIES:
            return "strategies need a GPU for each of their ranks, 2 or more, and this machine has one"
    return None


def check_up(
    plan: CheckupPlan,
    folder: Path,
    command: str,
    on_step: Callable[[str, int, int, str], None],
    started: TorchrunRanks | None = None,
    nodes: Sequence[NodeFacts] = (),
) -> Iterator[Checkup]:
    """Carry out a checkup.

    Args:
        plan: What to do.
        folder: Where its files go; it is there.
        command: What the user typed.
        on_step: Told the part, how many of its steps are done, of how many, and what comes next.
        started: Ranks that torchrun started; ``None`` starts ranks on this machine.
        nodes: Where they are.

    Yields:
        What was found until then, after each part; the last one is the whole.
    """
    ranks = Ranks(WORLD, plan.ranks, on_gpus=plan.on_gpus) if started is None else nullcontext(started)
    with ranks as world:
        running = _Running(plan, world, folder, command, on_step, nodes)
        yield running.survey()
        for part in CheckupPart:
            if part in _ALONE:
                world.end()
            yield running.part(part)


class _Running:
    def __init__(
        self,
        plan: CheckupPlan,
        world: Ranks,
        folder: Path,
        command: str,
        on_step: Callable[[str, int, int, str], None],
        nodes: Sequence[NodeFacts] = (),
    ) -> None:
        self._plan, self._world, self._folder, self._on_step = plan, world, folder, on_step
        self._start = time.monotonic()
        self._found: dict[str, Any] = {
            "package": __version__,
            "command": command,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "quick": plan.quick,
            "ranks": plan.ranks,
            "backend": "nccl" if plan.on_gpus else "gloo",
            "machine": None,
            "nodes": tuple(nodes),
            "shapes": plan.shapes,
        }
        self._parts: list[PartOutcome] = []
        self._lists: dict[str, list[Any]] = {name: [] for name in ("exactness", "kernels", "launches", "strategies")}
        self._do: dict[CheckupPart, Callable[[Step], None]] = {
            CheckupPart.EXACTNESS: lambda step: self._lists["exactness"].extend(check_schedules(plan, world, step)),
            CheckupPart.LINKS: self._links,
            CheckupPart.KERNELS: lambda step: self._lists["kernels"].extend(time_kernels(plan, step)),
            CheckupPart.LAUNCHES: lambda step: self._lists["launches"].extend(time_calls(plan, world, step)),
            CheckupPart.STRATEGIES: lambda step: self._sweep(CheckupPart.STRATEGIES, attention_sweep, step),
            CheckupPart.STEP: lambda step: self._sweep(CheckupPart.STEP, step_sweep, step),
        }

    def survey(self) -> Checkup:
        """Look at the machine, in a process of its own: a driver that hangs ends nothing else."""
        with self._outcome(_SURVEY):
            self._on_step(_SURVEY, 0, 1, "what is installed and which GPUs there are")
            with Ranks(SOLO, 1, on_gpus=True) as process:
                (self._found["machine"],) = process.ask(LookAround(), _LOOK_TIMEOUT)
            smi = self._found["machine"].smi
            if smi is not None and self._plan.gpus > 1 and self._plan.nodes < 2:  # it knows this machine's
                said = f"what {NVIDIA_SMI} topo -m says, with the makers' rates, not measured"
                self._keep_topology(smi, said, network_to_yaml(network_from_mapping(smi, name=NVIDIA_SMI)))
            else:
                self._found["topology_said"] = "nothing was measured between ranks"
        return self._checkup()

    def part(self, part: CheckupPart) -> Checkup:
        """Do a part, or say why not."""
        left = self._plan.seconds - (time.monotonic() - self._start)
        share = _SHARES.get(part, 1.0) * self._plan.seconds
        deadline = time.monotonic() + min(left, share)
        reason = impossible(self._plan, part)
        if reason is None and part is not CheckupPart.KERNELS and self._world.lost is not None:
            reason = f"the ranks that torchrun started are lost: {self._world.lost}"

        def step(done: int, total: int, what: object) -> None:
            if time.monotonic() > deadline:
                raise _TimeIsUpError(f"its time was up before: {what}")
            self._on_step(part.value, done, total, str(what))

        if part in self._plan.skip:
            self._parts.append(PartOutcome(name=part.value, state=PartState.SKIPPED, said="it was not asked for"))
        elif reason is not None:
            self._parts.append(PartOutcome(name=part.value, state=PartState.IMPOSSIBLE, said=reason))
        else:
            with self._outcome(part.value):
                step(0, 0, "starting")
                self._do[part](step)
        return self._checkup()

    @contextmanager
    def _outcome(self, name: str) -> Iterator[None]:
        """Note how a part ends; an error is noted too and goes no further."""
        start, state, said = time.monotonic(), PartState.DONE, ""
        try:
            yield
        except _TimeIsUpError as error:
            state, said = PartState.CUT_SHORT, str(error)
        except (TokenRingError, OSError) as error:
            state, said = PartState.FAILED, str(error)
        except Exception as error:  # the other parts can still tell something
            log.exception("part %s", name)
            state, said = PartState.FAILED, f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - start, 2)
        self._parts.append(PartOutcome(name=name, state=state, said=said, seconds=seconds))

    def _links(self, step: Step) -> None:
        found = measure_links(self._plan, self._world, step)
        self._found |= {"latency": found.latency, "messages": found.messages}
        if found.network is not None:
            text = network_to_yaml(found.network, found.beside)
            self._keep_topology(network_to_mapping(found.network), f"measured: {found.said}", text)
        elif self._found.get("topology") is None:
            self._found["topology_said"] = found.said

    def _keep_topology(self, mapping: dict[str, Any], said: str, text: str) -> None:
        self._found |= {"topology": mapping, "topology_said": said}
        write_whole(self._folder / TOPOLOGY_FILE, text)

    def _sweep(self, part: CheckupPart, config: Callable[..., Any], step: Step) -> None:
        known = self._folder / TOPOLOGY_FILE if self._found.get("topology") is not None else None
        asked = config(self._plan, self._folder / SWEEP_FOLDERS[part])
        self._lists["strategies"].extend(sweep(asked, self._found["command"], known, step, self._world.lent))

    def _checkup(self) -> Checkup:
        checkup = Checkup.model_validate(
            {**self._found, **self._lists, "parts": self._parts, "seconds": round(time.monotonic() - self._start, 1)}
        )
        return checkup.model_copy(update={"findings": findings(checkup)})
