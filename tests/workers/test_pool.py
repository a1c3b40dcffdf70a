"""Ranks with real processes, which import no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from tokenring_xdit.errors import ConfigurationError, LaunchError, LostRankError
from tokenring_xdit.liveness import LIMIT_VARIABLE, State
from tokenring_xdit.workers import pool as pool_module
from tokenring_xdit.workers.pool import WorkerPool

pytestmark = pytest.mark.e2e

MODULE = "tests.workers.obedient"


def gone(processes: list[int]) -> bool:
    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(process) for process in processes)


def test_orders_are_carried_out_by_all() -> None:
    with WorkerPool(MODULE, 3) as pool:
        assert pool.ask("rank * 10") == [0, 10, 20]
        assert pool.ask("len('x' * 10**7)") == [10**7] * 3
        assert pool.ask("os.environ['GLOO_SOCKET_IFNAME'], os.environ['NCCL_SOCKET_IFNAME']") == [("lo", "lo")] * 3
    assert gone(pool.processes)


@pytest.mark.parametrize(
    ("order", "said", "error"),
    [
        # Those that miss a rank may be heard first: whoever is to blame is waited for, here as long as it may take.
        ("sleep(60) if rank else fail(ValueError('too large'))", "rank 0 failed: ValueError: too large", LaunchError),
        (
            "kill(9) if rank == 1 else sleep(0.2) or fail(RuntimeError('[gloo/transport/tcp] Connection closed'))",
            "rank 1 was killed by SIGKILL",
            LostRankError,
        ),
        ("end(3) if rank == 2 else sleep(60)", "rank 2 ended with exit code 3", LostRankError),
        (
            "end(3) if rank == 2 else fail(RuntimeError('[gloo/transport/tcp] Connection closed'))",
            "rank 2 ended with exit code 3",
            LostRankError,
        ),
        (
            "sleep(0.3) or fail(KeyError('mine')) if rank == 2 else fail(ConnectionError('gloo/transport'))",
            "rank 2 failed: KeyError: 'mine'",
            LaunchError,
        ),
        ("no_such_name", "failed: NameError", LaunchError),
    ],
)
def test_the_rank_that_failed_first_is_named(
    order: str, said: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep(60)" not in order:
        monkeypatch.setattr(pool_module, "_SECONDS_TO_EXPLAIN", 60.0)
    with WorkerPool(MODULE, 3) as pool:
        assert pool.ask("rank") == [0, 1, 2]  # all have started: none is seconds later than another
        with pytest.raises(error) as raised:
            pool.ask(order)
    assert said in str(raised.value)
    assert type(raised.value) is error
    assert gone(pool.processes)


def test_a_rank_that_is_stopped_is_named_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1.5")
    with WorkerPool(MODULE, 3) as pool:
        assert pool.ask("rank") == [0, 1, 2]
        stopped = pool.processes[1]
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(LostRankError, match=rf"rank 1 is stopped \(process {stopped}\)"):
            pool.ask("sleep(600) if rank else 0", timeout=300)  # which would say that ranks did not answer
        assert gone(pool.processes)


def test_a_rank_is_known_to_have_ended_as_soon_as_it_has() -> None:
    with WorkerPool(MODULE, 1) as pool:
        (worker,) = pool.workers
        assert worker.identity is not None and not pool.died
        worker.process.kill()
        while worker.identity.state is not State.GONE:
            time.sleep(0.001)
        assert pool.died  # whatever a thread that waits for it has seen


def test_a_rank_that_goes_on_in_time_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "20")
    with WorkerPool(MODULE, 2) as pool:
        pool.ask("rank")
        os.kill(pool.processes[1], signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (pool.processes[1], signal.SIGCONT)).start()
        assert pool.ask("rank") == [0, 1]


@pytest.mark.parametrize("limit", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigurationError, match=LIMIT_VARIABLE):
        WorkerPool(MODULE, 1)


def test_ranks_that_do_not_answer_in_time_are_ended() -> None:
    with WorkerPool(MODULE, 2) as pool:
        assert pool.ask("rank") == [0, 1]
        with pytest.raises(LaunchError, match=r"ranks \[1\] did not answer within 5 seconds"):
            pool.ask("sleep(60) if rank else 0", timeout=5)
        assert gone(pool.processes)


def test_a_module_that_cannot_be_imported_is_told() -> None:
    with WorkerPool("tests.workers.no_such_module", 1) as pool, pytest.raises(LaunchError, match="no_such_module"):
        pool.ask("rank")


PARENT = """
    import sys, time
    from tokenring_xdit.workers.pool import WorkerPool
    pool = WorkerPool("tests.workers.obedient", 2)
    print(*pool.processes, flush=True)
    if "late" in sys.argv:
        pool.ask("rank")
        print("ready", flush=True)
        pool.ask("sleep(600)")
    time.sleep(600)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_ranks_end_with_a_process_that_is_killed(tmp_path: Path, when: str) -> None:
    """Also before they have imported anything."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        ranks = [int(word) for word in parent.stdout.readline().split()]
        if when == "late":
            assert parent.stdout.readline() == "ready\n"
        parent.kill()
    assert len(ranks) == 2
    assert gone(ranks)
    assert [path.name for path in tmp_path.iterdir()] == ["parent.py"]


def test_a_thread_that_starts_ranks_may_end_before_them() -> None:
    pools: list[WorkerPool] = []
    thread = threading.Thread(target=lambda: pools.append(WorkerPool(MODULE, 1)))
    thread.start()
    thread.join()
    with pools[0] as pool:
        assert pool.ask("sleep(1)") == [None]


def test_an_orphan_does_not_begin(tmp_path: Path) -> None:
    """What it is told of its parent is no longer so: it ends before it imports what it was to run."""
    command = [sys.executable, "-m", "tokenring_xdit.workers.rank", MODULE, "1", "1", "0", "1"]
    started = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert started.returncode == 1
