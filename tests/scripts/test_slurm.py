from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.cluster import PROGRAMS, Cluster, slurm
from tests.scripts.hosts import Host
from tests.scripts.support import RING_ATTENTION, ROOT, environment, path_with, run
from tests.scripts.test_launch_node import lines

SCRIPT = "slurm.sbatch"

SCONTROL = '[ "$1 $2" = "show hostnames" ] && printf "%s\\n" ${3//,/ }'
"""Says the hosts of a plain list, one a line."""

SRUN = """
nodes="$2"
until [ "$1" = bash ]; do shift; done
for ((node = 0; node < nodes; node++)); do SLURM_NODEID=$node "$@" & done
wait
"""
"""Starts the tasks of all nodes on this machine."""


def job(nodes: str, **more: str) -> dict[str, str]:
    """What SLURM tells a job of number 61234."""
    return {
        "SLURM_JOB_ID": "61234",
        "SLURM_JOB_NUM_NODES": str(nodes.count(",") + 1),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_SUBMIT_DIR": str(ROOT),
    } | more


def test_the_command_of_a_job(tmp_path: Path) -> None:
    planned = run(
        SCRIPT,
        *("--dry-run", "--gpus", "0,1", "flux.yaml", "prompt=a red circle"),
        **job("gpu07,gpu08", PATH=path_with(tmp_path, scontrol=SCONTROL), SLURM_CPUS_PER_TASK="16"),
    )
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --kill-on-bad-exit=1 --cpu-bind=none --cpus-per-task 16 "
        f"bash {ROOT}/scripts/launch-nodes.sh --nodes 2 --master gpu07:11234 --gpus 0\\,1 "
        "flux.yaml prompt=a\\ red\\ circle\n"
    )


def test_the_plan_outside_a_job() -> None:
    planned = run(SCRIPT, "--dry-run", "flux.yaml")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "srun --nodes NODES --ntasks NODES --ntasks-per-node 1 --kill-on-bad-exit=1 --cpu-bind=none "
        f"bash {ROOT}/scripts/launch-nodes.sh --nodes NODES --master FIRST_NODE:PORT flux.yaml\n"
    )


def test_help() -> None:
    shown = run(SCRIPT, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: sbatch ") and "--dry-run" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        ([], {}, "name a CONFIG file"),
        (["--dry-run"], {}, "name a CONFIG file"),
        (["flux.yaml"], {}, "this is no SLURM job"),
        (["flux.yaml"], job("gpu07", SLURM_SUBMIT_DIR="/tmp"), "no launch-nodes.sh in /tmp/scripts; submit from"),
        (["flux.yaml"], job(""), "scontrol does not say which nodes"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], more: dict[str, str], message: str, tmp_path: Path) -> None:
    refused = run(SCRIPT, *arguments, **more, PATH=path_with(tmp_path, scontrol=SCONTROL))
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not refused.stdout


@pytest.mark.e2e
def test_a_job_of_two_nodes_runs(tmp_path: Path) -> None:
    """As sbatch starts it: a copy of the script, in another folder."""
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / "scripts" / SCRIPT).read_text())
    (tmp_path / "bin").mkdir()
    path = path_with(tmp_path / "bin", scontrol=SCONTROL, srun=SRUN)
    ran = subprocess.run(
        ["bash", copy, "--cpu", "--ranks=1", "--", RING_ATTENTION],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**job("localhost,localhost", PATH=path, SLURM_JOB_ID=str(os.getpid()))),  # a port of its own
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [(line["rank"], line["ranks"]) for line in lines(ran.stdout)] == [(0, 2), (1, 2)]


@pytest.fixture
def cluster(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[Cluster]:
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; Debian's packages slurmctld, slurmd and slurm-client")
    with slurm(hosts, tmp_path) as running:
        yield running


@pytest.mark.netns
def test_slurm_itself_runs_a_job_on_two_hosts(cluster: Cluster, tmp_path: Path) -> None:
    script = "scripts/slurm.sbatch"
    wishes = ("--cpu", "--ranks=2", "--", RING_ATTENTION)
    output = tmp_path / "job.out"
    submit = ("sbatch", "--wait", "--nodes=2", "--cpus-per-task=2", f"--output={output}", script)

    submitted = cluster.run(*submit, *wishes)
    assert submitted.returncode == 0, submitted.stderr + output.read_text()
    found = lines("\n".join(line for line in output.read_text().splitlines() if line.startswith("{")))
    assert [(line["rank"], line["ranks"]) for line in found] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert found[0]["network"] == found[1]["network"] != found[2]["network"] == found[3]["network"]
    assert {line["variables"]["GLOO_SOCKET_IFNAME"] for line in found} == {"host"}

    submitted = cluster.run(*submit, "--dry-run", *wishes)
    assert submitted.returncode == 0, submitted.stderr
    words = shlex.split(output.read_text())
    assert words[:5] == ["srun", "--nodes", "2", "--ntasks", "2"]
    assert words[words.index("--master") + 1].startswith("host0:")

    failing = cluster.run(
        *submit, "--cpu", "--ranks=1", "--", "-m", "tokenring_xdit.cli", "schedule", "show", "nothing"
    )
    assert failing.returncode != 0
