"""What listens while commands run, what they leave behind, and ranks that stop: as somebody outside sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support import commands
from tokenring_xdit.liveness import LIMIT_VARIABLE

FAR = "steps=100000"
RUN = ["run", "configs/embedded.yaml"]
COMPARE = ["compare", "a red circle", "--ranks", "2", "--steps", "2", "--rounds", "1"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*COMPARE, "--output", "{folder}/a.png"],
        ["probe", "--ranks", "2", "--quick", "--seconds", "1"],
        ["bench", "configs/sweeps/smoke.yaml", "output={folder}/bench"],
        ["doctor", "--ranks", "2", "--quick", "--skip", "times", "--out", "{folder}/doctor"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.e2e
@pytest.mark.matrix
def test_nothing_listens_beyond_the_loopback(arguments: list[str], tmp_path: Path) -> None:
    """Of ``run`` too: ``test_prompts_of_a_config_become_pictures``."""
    words = [word.format(folder=tmp_path) for word in arguments]
    done, found = commands.watched(*words, environment={"XDG_CACHE_HOME": str(tmp_path), **commands.ELSEWHERE})
    assert done.returncode == 0 or arguments[0] == "probe", done.stderr
    assert found == {"127.0.0.1"}


@contextmanager
def running(*arguments: str, ranks: int = 2, drawing: bool = True, **variables: str) -> Iterator[tuple[object, dict]]:
    """A command and the processes of its ranks."""
    with commands.start(*arguments, environment=variables) as process:
        found = commands.ranks_of(process, ranks)
        if drawing:
            seen = ""
            while "/100000" not in seen.replace("0/100000", ""):
                character = process.stderr.read(1)
                assert character, seen
                seen += character
        try:
            yield process, found
        finally:
            for rank in found.values():
                with suppress(psutil.NoSuchProcess):
                    rank.kill()
            process.kill()


def gone(processes: dict[int, psutil.Process]) -> bool:
    return not psutil.wait_procs(list(processes.values()), timeout=120)[1]


@pytest.mark.parametrize("drawing", [False, True], ids=["importing", "drawing"])
@pytest.mark.e2e
@pytest.mark.matrix
def test_a_command_that_is_killed_leaves_nothing(tmp_path: Path, drawing: bool) -> None:
    """As any process that has started ranks: ``test_ranks_end_with_a_process_that_is_killed``."""
    output = tmp_path / "a.png"
    (temporary := tmp_path / "temporary").mkdir()
    with running(*RUN, FAR, f"output={output}", drawing=drawing, TMPDIR=str(temporary)) as (process, ranks):
        process.kill()
        assert gone(ranks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]
    assert list(temporary.glob("tokenring*")) == []


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_rank_that_is_stopped_ends_the_run_and_is_named(tmp_path: Path) -> None:
    arguments = (*RUN, FAR, f"output={tmp_path / 'a.png'}")
    with running(*arguments, **{LIMIT_VARIABLE: "2"}) as (process, ranks):
        ranks[1].suspend()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert f"tokenring-xdit: rank 1 is stopped (process {ranks[1].pid})" in err
        assert "Traceback" not in err
        assert gone(ranks)


@pytest.mark.e2e
def test_ranks_of_torchrun_end_with_it(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, "-m", "tokenring_xdit.cli", *RUN, FAR, f"output={tmp_path / 'a.png'}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as torchrun:
        deadline = time.monotonic() + 300
        ranks: dict[int, psutil.Process] = {}
        while len(ranks) < 2 and time.monotonic() < deadline:
            for child in psutil.Process(torchrun.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if "tokenring_xdit.cli" in child.cmdline():
                        ranks[child.pid] = child
            time.sleep(0.02)
        torchrun.send_signal(signal.SIGKILL)
    assert len(ranks) == 2
    assert gone(ranks)
