"""The whole command, as its user sees it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.support import commands
from tokenring_xdit.doctor.record import Checkup, Grade, PartState
from tokenring_xdit.schedule import ALGORITHMS
from tokenring_xdit.topology import load_topology

FAULT = """
import importlib.abc, importlib.machinery, os, sys, time

class Faulty(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "tokenring_xdit.attention.executor":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            right = module.execute

            def execute(verified, *rest):
                out, lse = right(verified, *rest)
                {fault}
                return out, lse

            module.execute = execute

        spec.loader.exec_module = exec_module
        return spec

if os.environ.get("RANK") == "1":
    sys.meta_path.insert(0, Faulty())
"""

EXACTNESS = ["doctor", "--quick", "--ranks", "2", "--skip", "links", "--skip", "times", "--out"]


def faulty(folder: Path, fault: str) -> dict[str, str]:
    """Rank 1 does this after every call of a schedule."""
    found = commands.fault(folder, FAULT.replace("{fault}", fault))
    return {"PYTHONPATH": os.pathsep.join([found["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])}


def read(folder: Path) -> Checkup:
    return Checkup.model_validate_json((folder / "doctor.json").read_text())


def wrong(checkup: Checkup) -> str:
    return "\n".join(finding.said for finding in checkup.findings if finding.grade is Grade.WRONG)


UNHURRIED = """
import os
if "RANK" not in os.environ:
    import wrapt

    def unhurry(module):
        module.CheckupPlan.seconds = 3600.0

    wrapt.register_post_import_hook(unhurry, "tokenring_xdit.doctor.cases")
"""
"""Time for all of a checkup, on a machine that others load."""


@pytest.mark.parametrize(
    ("skipped", "levels"),
    [(["step"], {"attention"}), pytest.param([], {"attention", "pipeline"}, marks=pytest.mark.matrix)],
    ids=["without-steps", "all"],
)
@pytest.mark.e2e
def test_a_machine_without_a_gpu_is_checked_as_far_as_it_goes(
    tmp_path: Path, skipped: list[str], levels: set[str]
) -> None:
    folder = tmp_path / "found"
    words = [word for part in skipped for word in ("--skip", part)]
    unhurried = commands.fault(tmp_path, UNHURRIED)
    paths = {"PYTHONPATH": os.pathsep.join([unhurried["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])}
    done = commands.run(
        "doctor", "--quick", "--ranks", "2", *words, "--out", str(folder), "--json", timeout=900, environment=paths
    )
    checkup = read(folder)
    assert done.returncode == 0, wrong(checkup) + done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "doctor.json").read_text())
    states = {part.name: part.state for part in checkup.parts}
    assert {name for name, state in states.items() if state is PartState.SKIPPED} == set(skipped)
    assert set(states.values()) <= {PartState.DONE, PartState.SKIPPED}, checkup.parts
    assert {result.schedule.partition(":")[0] for result in checkup.exactness} == set(ALGORITHMS)
    assert all(result.exact and result.error is not None for result in checkup.exactness)
    assert {result.mask for result in checkup.exactness} == {"full", "causal"}
    assert [message.size for message in checkup.messages] == sorted(message.size for message in checkup.messages)
    assert {kernel.kernel for kernel in checkup.kernels if kernel.seconds is not None} >= {"math", "cpu"}
    assert {launch.schedule for launch in checkup.launches if launch.seconds} >= {"ring", "token_ring", "direct:wide=2"}
    assert {record.level for record in checkup.strategies} == levels
    text = (folder / "doctor.html").read_text()
    assert "nothing is wrong" in text
    assert "No GPU" in text
    assert all(name in text for name in ALGORITHMS)
    if checkup.topology is not None:
        assert len(load_topology(str(folder / "topology.yaml")).hosts) == 2
        assert f"export TOKENRING_TOPOLOGY={folder / 'topology.yaml'}" in text


WRONG = "out = out * 1.001 if verified.schedule.name.startswith('mesh') else out"


@pytest.mark.parametrize(
    ("faults", "variables"),
    [
        ([WRONG, "if verified.schedule.name == 'direct': os._exit(3)"], {}),
        pytest.param(
            ["if verified.schedule.name == 'direct': time.sleep(600)"],
            {"TOKENRING_AGREEMENT_TIMEOUT": "5"},
            marks=pytest.mark.matrix,
        ),
        pytest.param([WRONG], {}, marks=pytest.mark.matrix),
    ],
    ids=["wrong-and-dies", "hangs", "wrong"],
)
@pytest.mark.e2e
def test_what_is_wrong_is_named_the_exit_code_says_so_and_the_rest_goes_on(
    tmp_path: Path, faults: list[str], variables: dict[str, str]
) -> None:
    folder, lines = tmp_path / "found", f"\n{' ' * 16}".join(faults)
    done = commands.run(*EXACTNESS, str(folder), environment={**faulty(tmp_path, lines), **variables})
    checkup = read(folder)
    assert done.returncode == 1, done.stderr
    found = {result.schedule.partition(":")[0] for result in checkup.exactness if not result.exact}
    assert found == {"mesh" if fault == WRONG else "direct" for fault in faults}
    assert "something is wrong" in (folder / "doctor.html").read_text()
    assert ("1 thing is" if len(faults) == 1 else "2 things are") + " wrong" in done.stderr
    if "mesh" in found:
        assert "Schedule 'mesh" in wrong(checkup)
        assert "WRONG  Schedule 'mesh" in done.stdout
    if "direct" in found:
        (bad,) = [result for result in checkup.exactness if not result.exact and result.schedule == "direct"]
        assert "rank 1" in bad.said
        after = [result.schedule for result in checkup.exactness]
        assert "token_ring" in after[after.index("direct") :]


@pytest.mark.e2e
def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    with commands.start("doctor", "--ranks", "2", "--out", str(folder)) as process:
        deadline = time.monotonic() + 300
        while not (folder / "doctor.html").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert f"what was found until then: {folder / 'doctor.json'}" in err
    assert read(folder).machine is not None


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doctor.json").touch()
    done = commands.run("doctor", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "has files already: name a new folder" in done.stderr


@pytest.mark.cuda
def test_gpus_are_checked_over_nccl_where_there_are_two(tmp_path: Path) -> None:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        pytest.skip("needs a GPU")
    folder = tmp_path / "found"
    done = commands.run("doctor", "--quick", "--out", str(folder), timeout=600)
    checkup = read(folder)
    assert done.returncode == 0, wrong(checkup) + done.stderr
    assert checkup.machine is not None
    assert len(checkup.machine.gpus) == gpus
    assert checkup.backend == ("nccl" if gpus > 1 else "gloo")
    assert {kernel.dtype for kernel in checkup.kernels if kernel.flops} == {"bfloat16", "float32"}
    assert {part.name: part.state for part in checkup.parts}["exactness"] is PartState.DONE
