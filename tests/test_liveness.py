"""What ``/proc`` tells of a process: it runs, is stopped, or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tokenring_xdit.liveness import ProcessIdentity, State


def test_a_process_runs_stops_and_goes() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        known = ProcessIdentity.of(process.pid)
        assert known.state is State.RUNNING
        os.kill(process.pid, signal.SIGSTOP)
        assert _soon(known) is State.STOPPED
        process.kill()
        assert _soon(known, but=State.STOPPED) is State.GONE, "a zombie is gone"
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


def _soon(known: ProcessIdentity, but: State = State.RUNNING) -> State:
    """The state once it is another one than ``but``."""
    end = time.monotonic() + 10
    while known.state is but and time.monotonic() < end:
        time.sleep(0.01)
    return known.state
