"""A SLURM cluster of two emulated hosts, with SLURM's own daemons, as Debian 12 packages them (22.05)."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.scripts.hosts import Host
from tests.scripts.support import ROOT, environment

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")

_CONFIGURATION = """
ClusterName=emulated
SlurmctldHost=host0({address})
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that takes jobs.

    Attributes:
        login: The host that jobs are submitted from.
        folder: Where its configuration is.
    """

    login: Host
    folder: Path

    def run(self, *command: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM's, in the repository, as a user who has set nothing else."""
        return subprocess.run(
            ["ip", "netns", "exec", self.login.namespace, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=_environment(self.folder),
            check=False,
        )


def _environment(folder: Path) -> dict[str, str]:
    return environment(SLURM_CONF=str(folder / "slurm.conf"))


@contextmanager
def slurm(hosts: Sequence[Host], folder: Path) -> Iterator[Cluster]:
    """Start a controller on the first host and a node on each; end them whatever happens."""
    names = [f"host{i}" for i in range(len(hosts))]
    text = _CONFIGURATION.format(address=hosts[0].address, folder=folder)
    for name, host in zip(names, hosts, strict=True):
        (folder / name).mkdir()
        text += f"NodeName={name} NodeAddr={host.address} CPUs=2\n"
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # which nothing uses; v2 asks for a mount
    daemons: list[subprocess.Popen[bytes]] = []
    # What 'ip netns exec' shows as /etc/hosts.
    tables = [Path("/etc/netns") / host.namespace for host in hosts]
    try:
        for table in tables:
            table.mkdir(parents=True)
            lines = [f"{host.address} {name}\n" for name, host in zip(names, hosts, strict=True)]
            (table / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        daemons.append(_daemon(hosts[0], folder, "host0", "slurmctld", "-D", "-c"))
        daemons += [_daemon(h, folder, n, "slurmd", "-D", "-N", n) for n, h in zip(names, hosts, strict=True)]
        cluster = Cluster(hosts[0], folder)
        _wait_until_idle(cluster, len(hosts))
        yield cluster
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(60)
        for table in tables:
            shutil.rmtree(table, ignore_errors=True)


def _daemon(host: Host, folder: Path, name: str, *command: str) -> subprocess.Popen[bytes]:
    # SLURM asks each host for its name.
    named = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh", *command]
    with (folder / f"{command[0]}-{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, *named], stdout=log, stderr=log, env=_environment(folder)
        )


def _wait_until_idle(cluster: Cluster, nodes: int, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if cluster.run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split() == ["idle"] * nodes:
            return
        time.sleep(0.5)
    logs = "".join(f"{path.name}\n{path.read_text()}" for path in cluster.folder.glob("*.log"))
    raise TimeoutError(f"SLURM did not start within {timeout} s\n{logs}")
