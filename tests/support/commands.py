"""The ``tokenring-xdit`` command as a user starts it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "tokenring_xdit.cli"]


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def run(
    *arguments: str, timeout: float = 300, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with start(*arguments, environment=environment) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def watched(
    *arguments: str, environment: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run the command to its end, and see at which addresses it and its ranks wait for others meanwhile."""
    found: set[str] = set()
    with start(*arguments, environment=environment) as process:
        command = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                found |= _listening(command)
            time.sleep(0.2)
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err), found


def _listening(process: psutil.Process) -> set[str]:
    found = set()
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            connections = each.net_connections("inet")
            found |= {c.laddr.ip for c in connections if c.status == "LISTEN" or c.type.name == "SOCK_DGRAM"}
    return found


ELSEWHERE = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
"""What a user may have set for runs on several nodes."""


def free_port() -> int:
    """A TCP port that nobody uses now, and no connection gets by chance until it is used: those are from 32768 on."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def ranks_of(process: subprocess.Popen[str], count: int, *, timeout: float = 300) -> dict[int, psutil.Process]:
    """The processes of the ranks, once all of them have started drawing."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found: dict[int, psutil.Process] = {}
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if any("tokenring_xdit.pipelines.run_rank" in word for word in child.cmdline()):
                    found[int(child.environ()["RANK"])] = child
            except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
                continue
        if len(found) == count:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{count} ranks did not start within {timeout} s")


def fault(folder: Path, code: str) -> dict[str, str]:
    """An environment in which every Python process runs ``code`` first: a fault from outside."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}
