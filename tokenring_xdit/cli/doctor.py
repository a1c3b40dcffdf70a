"""``tokenring-xdit doctor``: is this machine fit, and how fast is it?"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch

from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.attention.member import check_environment
from tokenring_xdit.bench import RESULTS_FILE
from tokenring_xdit.bench.pool import torchrun_pool
from tokenring_xdit.bench.report import REPORT_FILE, write_report
from tokenring_xdit.cli.arguments.doctor import PARTS
from tokenring_xdit.cli.progress import progress
from tokenring_xdit.cli.torchrun import refuse_other_ranks
from tokenring_xdit.devices import gpu_count, refuse_missing_cores, refuse_missing_gpus
from tokenring_xdit.doctor.cases import CheckupPart, CheckupPlan
from tokenring_xdit.doctor.checkup import SWEEP_FOLDERS, TOPOLOGY_FILE, check_up
from tokenring_xdit.doctor.facts import nodes_of
from tokenring_xdit.doctor.machines import NodeFacts
from tokenring_xdit.doctor.page import page
from tokenring_xdit.doctor.pools import NODES, TorchrunRanks
from tokenring_xdit.doctor.record import JSON_FILE, Checkup, Grade
from tokenring_xdit.errors import ConfigurationError, LaunchError, TokenRingError
from tokenring_xdit.messages import escaped, shown
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.probe.commands import Describe
from tokenring_xdit.topology import load_topology
from tokenring_xdit.workers.torchrun import serve_torchrun

__all__ = ["PAGE_FILE", "doctor_command"]

PAGE_FILE = "doctor.html"

_RANKS = 4  # where there are no two GPUs
_OF_TORCHRUN = ("WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_PORT")
_LOOK_TIMEOUT = 180.0  # until all ranks have joined


def doctor_command(args: argparse.Namespace) -> None:
    """Check this machine, or as one of torchrun's ranks all nodes together."""
    _check_environment()
    if "RANK" not in os.environ:
        _check(args, _plan(args))
    elif os.environ["RANK"] != "0":
        serve_torchrun(NODES)
    else:
        plan = _plan_of_torchrun(args)
        with torchrun_pool(NODES) as pool:
            nodes = nodes_of(pool.ask(Describe(), _LOOK_TIMEOUT))
            _check(args, replace(plan, nodes=len(nodes)), TorchrunRanks(pool), nodes)


def _check_environment() -> None:
    """Refuse what every call would refuse, one after the other.

    Raises:
        ConfigurationError: A variable says something that does not exist.
    """
    check_environment()
    known = os.environ.get(TOPOLOGY_VARIABLE)
    if known and os.environ.get("RANK", "0") == "0":  # the first rank reads it for all
        load_topology(known)


def _check(
    args: argparse.Namespace,
    plan: CheckupPlan,
    started: TorchrunRanks | None = None,
    nodes: Sequence[NodeFacts] = (),
) -> None:
    folder = _folder(args.out)
    checkup: Checkup | None = None
    try:
        with progress("doctor") as show:
            for checkup in check_up(
                plan,
                folder,
                args.command,
                lambda part, done, total, what: show(done, total, f"{part}: {what}"),
                started,
                nodes,
            ):
                _write(checkup, folder)
    except BaseException:
        if checkup is not None:
            print(f"what was found until then: {folder / JSON_FILE}", file=sys.stderr)
        raise
    assert checkup is not None
    print(checkup.model_dump_json(indent=2) if args.json else escaped(_summary(checkup, folder), keep="\n"))
    if checkup.wrong:
        count = len(checkup.wrong)
        things = "1 thing is" if count == 1 else f"{count} things are"
        raise LaunchError(f"{things} wrong; {folder / PAGE_FILE} says what")


def _plan(args: argparse.Namespace) -> CheckupPlan:
    gpus = gpu_count()
    ranks = args.ranks if args.ranks is not None else gpus if gpus > 1 else _RANKS
    if ranks < 2:
        raise ConfigurationError(f"--ranks {ranks}: schedules share a sequence between 2 ranks or more")
    if gpus == 1:  # ranks run on the processor
        refuse_missing_cores(ranks)
    else:
        refuse_missing_gpus(ranks)
    return CheckupPlan(ranks, gpus, quick=args.quick, skip=_skipped(args))


def _plan_of_torchrun(args: argparse.Namespace) -> CheckupPlan:
    """That of all nodes: where the first one has GPUs all have, as the ranks make sure of."""
    missing = [name for name in _OF_TORCHRUN if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"RANK is set without {', '.join(missing)}, and torchrun sets all of them: use it, or leave RANK out to "
            "have ranks started on this machine"
        )
    strange = [f"{name}={shown(os.environ[name])}" for name in _NUMBERS if not os.environ[name].isdecimal()]
    if strange:
        raise ConfigurationError(f"{', '.join(strange)} is no number, as torchrun sets it: use torchrun")
    ranks = int(os.environ["WORLD_SIZE"])
    refuse_other_ranks(args.ranks, ranks)
    if ranks < 2:
        raise ConfigurationError(
            f"torchrun started {ranks} rank, and schedules share a sequence between 2 or more: use --nproc-per-node 2 "
            "or more, or run it without torchrun"
        )
    return CheckupPlan(ranks, ranks * torch.cuda.is_available(), quick=args.quick, skip=_skipped(args), nodes=1)


def _skipped(args: argparse.Namespace) -> frozenset[CheckupPart]:
    times = PARTS[2:] if "times" in args.skip else ()
    return frozenset(CheckupPart(name) for name in (*args.skip, *times) if name != "times")


def _folder(asked: Path | None) -> Path:
    """The folder of the files, which becomes this command's own."""
    folder = asked or Path(f"doctor-{socket.gethostname()}-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigurationError(f"--out {folder} has files already: name a new folder")
    except OSError as error:
        raise ConfigurationError(f"--out {folder} cannot be written: {error.strerror}") from error
    return folder


def _write(checkup: Checkup, folder: Path) -> None:
    write_whole(folder / JSON_FILE, checkup.model_dump_json(indent=2) + "\n")
    write_whole(folder / PAGE_FILE, page(checkup, _line(checkup, folder), _sweep_reports(folder)))


def _line(checkup: Checkup, folder: Path) -> str | None:
    """What to set so that ``auto`` plans with the topology."""
    if checkup.topology is None:
        return None
    return f"export {TOPOLOGY_VARIABLE}={shlex.quote(str((folder / TOPOLOGY_FILE).resolve()))}"


def _sweep_reports(folder: Path) -> Mapping[str, str]:
    """The reports of the sweeps that have run, as far as what draws them is installed."""
    found = {}
    for part, name in SWEEP_FOLDERS.items():
        results = folder / name / RESULTS_FILE
        report = results.with_name(REPORT_FILE)
        if not report.exists() and results.exists():
            try:
                write_report(results, report)
            except TokenRingError:  # the table is in doctor.html
                continue
        if report.exists():
            found[part.value] = f"{name}/{REPORT_FILE}"
    return found


def _summary(checkup: Checkup, folder: Path) -> str:
    lines = []
    for grade, title in ((Grade.FINE, "fine"), (Grade.NOTE, "note"), (Grade.WRONG, "WRONG")):
        for finding in checkup.findings:
            if finding.grade is grade:
                lines.append(f"{title:<6} {finding.said}")
                lines += [f"{'':<6} {finding.advice}"] if finding.advice else []
    line = _line(checkup, folder)
    lines += [f"to have schedule auto plan with this: {line}"] if line is not None else []
    return "\n".join([*lines, f"report: {folder / PAGE_FILE}; to send: {folder / JSON_FILE}"])
