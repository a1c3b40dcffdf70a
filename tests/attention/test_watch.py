"""A rank that is gone, is stopped or stays away: the others raise within the limit, and name it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attention.trouble import (
    LIMITS,
    PHASES,
    SEPARATE,
    Said,
    ends_early,
    run,
    stopped_for_a_while,
    struck,
    struck_amid_a_copy,
    struck_amid_messages,
)
from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.liveness import LIMIT_VARIABLE

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[2]

LATE = 40.0
"""Seconds: a bound against hanging, below the 60 s of the group; what is tested are limits of 2 and 10 s."""

WORDS = {"kill": "rank 1 is gone (process {pid} on host ", "stop": "rank 1 is stopped (process {pid} on host "}


def check_named(said: list[Said], words: str) -> None:
    fault = said[1].fault
    assert fault is not None
    for rank in (said[0], said[2]):
        told = [(line, time) for line, time in zip(rank.lines, rank.times, strict=True) if line not in {"right", "1"}]
        assert told, rank.lines
        line, time = told[0]
        assert line.startswith("CommunicationError: " + words), line
        assert time - fault < LATE


CHANNELS = [(phase, kind, "process-groups") for phase in PHASES[1:] if "channels open" in phase for kind in WORDS]
"""Which memory that ranks share has none of."""


@pytest.mark.parametrize(
    ("phase", "kind", "transport"),
    [
        *CHANNELS,
        *(
            pytest.param(phase, kind, transport, marks=() if often else pytest.mark.matrix)
            for phase in PHASES[1:]
            if "channels open" not in phase
            for kind, transport, often in (
                *(("kill", "symmetric", True), ("stop", "process-groups", True)),
                *(("stop", "symmetric", False), ("kill", "process-groups", False)),
            )
        ),
    ],
)
def test_a_rank_that_is_struck_is_named(phase: str, kind: str, transport: str, tmp_path: Path) -> None:
    environment = {TRANSPORT_VARIABLE: transport, AGREEMENT_TIMEOUT_VARIABLE: "60"}
    said = run(3, struck, phase, kind, folder=tmp_path, environment=environment)
    check_named(said, WORDS[kind].format(pid=said[1].pid))
    for rank in (said[0], said[2]):
        assert rank.last.startswith("CommunicationError: ")  # the group is over


def test_a_rank_that_dies_before_anything_is_known_of_it_is_named(tmp_path: Path) -> None:
    said = run(3, struck, PHASES[0], "kill", folder=tmp_path)
    for rank in (said[0], said[2]):
        assert rank.last.startswith("CommunicationError: ") and "rank 1" in rank.last
        assert said[1].fault is not None and rank.times[0] - said[1].fault < LATE


@pytest.mark.parametrize("phase", ["before channels open", "in the kernel"])
def test_a_rank_that_raises_in_a_call_is_named_with_its_error(phase: str, tmp_path: Path) -> None:
    said = run(3, struck, phase, "raise", folder=tmp_path, awaited=(0, 1, 2))
    check_named(said, "rank 1 failed")
    for rank in (said[0], said[2]):
        assert "ValueError: a fault of rank 1" in next(line for line in rank.lines if line != "right")


@pytest.mark.parametrize("kind", ["kill", "stop"])
@pytest.mark.parametrize("after", [0.005, 0.02])
def test_messages_on_the_way_in_part_hold_nobody(kind: str, after: float, tmp_path: Path) -> None:
    environment = {"TOKENRING_AGREEMENT_TIMEOUT": "60", TRANSPORT_VARIABLE: "process-groups"}
    said = run(3, struck_amid_messages, kind, after, folder=tmp_path, environment=environment)
    check_named(said, WORDS[kind].format(pid=said[1].pid))


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_block_that_is_written_in_part_holds_nobody(kind: str, tmp_path: Path) -> None:
    environment = {"TOKENRING_AGREEMENT_TIMEOUT": "60", TRANSPORT_VARIABLE: "symmetric"}
    said = run(3, struck_amid_a_copy, kind, folder=tmp_path, environment=environment)
    check_named(said, WORDS[kind].format(pid=said[1].pid))
    for rank in (said[0], said[2]):
        assert "right" not in rank.lines[1:]


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        *(("while channels open", "kill"), ("while the ranks agree", "stop"), ("between keyed calls", "kill")),
        *(
            pytest.param(phase, kind, marks=pytest.mark.matrix)  # nobody elsewhere can tell a kill from a stop
            for phase, kind in (
                *(("while channels open", "stop"), ("while the ranks agree", "kill")),
                ("between keyed calls", "stop"),
            )
        ),
    ],
)
def test_ranks_of_other_machines_are_known_by_their_heartbeats(phase: str, kind: str, tmp_path: Path) -> None:
    # Longer than a machine that others load may keep a heart from beating.
    environment = {SEPARATE: "1", LIMIT_VARIABLE: "5", AGREEMENT_TIMEOUT_VARIABLE: "60"}
    said = run(3, struck, phase, kind, folder=tmp_path, environment=environment)
    check_named(said, f"rank 1 was not heard of for 5 s (process {said[1].pid} on host ")


def test_a_rank_that_goes_on_in_time_is_not_given_up(tmp_path: Path) -> None:
    patient = {LIMIT_VARIABLE: "15", AGREEMENT_TIMEOUT_VARIABLE: "60"}
    for rank in run(3, stopped_for_a_while, folder=tmp_path, awaited=(0, 1, 2), environment=patient):
        assert rank.lines == ["right", "right"]


def test_a_rank_that_ends_well_owes_nothing(tmp_path: Path) -> None:
    """Rank 1 has done its part of the last call, and its process ends while the others still wait for each other."""
    said = run(3, ends_early, folder=tmp_path, environment={"TOKENRING_AGREEMENT_TIMEOUT": "60"})
    assert [said[0].lines, said[2].lines] == [["right", "right"]] * 2


BEFORE_THE_FIRST_CALL = """
import os, signal
import torch.distributed as dist
from tokenring_xdit.attention import exchange

dist.init_process_group("gloo")
if os.environ["RANK"] == "1":
    print("process", os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
exchange(None, 1, "names")
"""


@pytest.mark.matrix
def test_a_rank_that_stops_before_its_first_call_is_named(tmp_path: Path) -> None:
    """It has told nothing of itself, but torchrun says which process it is."""
    program = tmp_path / "program.py"
    program.write_text(BEFORE_THE_FIRST_CALL)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", str(program)],
        env=os.environ | LIMITS | {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    (pid,) = re.findall(r"^process (\d+)$", done.stdout, re.MULTILINE)
    assert f"rank 1 is stopped (process {pid} on host {socket.gethostname()}), for 2 s: rank " in done.stderr
