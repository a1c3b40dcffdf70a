"""What ``/proc`` tells of a process: it runs, is stopped, or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.liveness import LIMIT, LIMIT_VARIABLE, ProcessIdentity, State, limit, process_space


def test_a_process_runs_stops_and_goes() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        known = ProcessIdentity.of(process.pid)
        assert known.state is State.RUNNING
        os.kill(process.pid, signal.SIGSTOP)
        _wait_for(known, State.STOPPED)
        process.kill()
        _wait_for(known, State.GONE)  # a zombie
        process.wait()
        assert known.state is State.GONE


def test_a_later_process_of_the_same_number_is_another() -> None:
    own = ProcessIdentity.of()
    assert own.state is State.RUNNING
    assert ProcessIdentity(own.pid, own.start - 1).state is State.GONE


def test_a_number_that_nobody_has_is_an_error() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        ProcessIdentity.of(process.pid)


def _wait_for(known: ProcessIdentity, state: State) -> None:
    end = time.monotonic() + 60
    while known.state is not state:
        assert time.monotonic() < end, f"{known} {known.state.value}, and was to become: {state.value}"
        time.sleep(0.01)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_limit_has_to_be_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(ConfigurationError, match=f"{LIMIT_VARIABLE}='{text}' is not a positive number of seconds"):
        limit()


def test_the_limit_is_the_environments_or_the_stated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert limit() == LIMIT
    monkeypatch.setenv(LIMIT_VARIABLE, "2.5")
    assert limit() == 2.5


def test_processes_of_one_machine_count_alike() -> None:
    code = "from tokenring_xdit.liveness import process_space; print(process_space())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == process_space()
