from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.support import INTERPRETER, RING_ATTENTION, TOPOLOGIES, environment, nvidia_smi, path_with, run
from tests.support.language import small_model_folder

SCRIPT = "launch-node.sh"
DGX_1 = f"--nvidia-smi={TOPOLOGIES / 'dgx-1.txt'}"
PROGRAM = f"{INTERPRETER} -m tokenring_xdit.workers.launch"

RINGS = {  # what the recorded machines get, and what is said about them
    "dgx-1": ("0,3,2,1,5,6,7,4", ["12 of 28 pairs of a ring are not neighbours"]),
    "dgx-a100": ("0,1,2,3,4,5,6,7", []),
    "hgx-h100": ("0,1,2,3,4,5,6,7", []),
    "4xa10": ("0,1,2,3", ["no two of the GPUs 0,1,2,3 are connected by NVLink", "PHB"]),
    "4xpcie-two-sockets": ("0,1,2,3", ["no two of the GPUs", "SYS"]),
    "4xpcie-2017-driver": ("0,1,2,3", ["no two of the GPUs", "SYS"]),
    "2xgpu-one-bridge": ("0,1", []),
    "4xa6000-two-bridges": (
        "0,1,2,3",
        ["2 of 4 pairs of neighbours in the ring are not connected by NVLink: GPU 1 and GPU 2, GPU 3 and GPU 0."],
    ),
    "8xa6000-four-bridges": ("0,1,2,3,4,5,6,7", ["4 of 8 pairs of neighbours", "GPU 3 and GPU 4", "SYS"]),
}


def lines(out: str) -> list[dict[str, Any]]:
    """What each rank printed; gloo of torch 2.8 prints to the same place, in the midst of lines too."""
    found, at, decoder = [], out.find("{"), json.JSONDecoder()
    while at >= 0:
        line, end = decoder.raw_decode(out, at)
        found.append(line)
        at = out.find("{", end)
    return sorted(found, key=lambda line: line["rank"])


@pytest.mark.parametrize("machine", [path.stem for path in TOPOLOGIES.glob("*.txt")])
@pytest.mark.e2e
def test_the_command_for_recorded_machines(machine: str) -> None:
    order, said = RINGS[machine]
    topology = TOPOLOGIES / f"{machine}.txt"
    planned = run(SCRIPT, "--dry-run", "--nvidia-smi", topology, "--", "x.py", "a red circle")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        f"env CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={order} NCCL_DEBUG=WARN "
        f"{PROGRAM} --ranks {order.count(',') + 1} x.py a\\ red\\ circle\n"
    )
    for words in said:
        assert words in planned.stderr
    assert said or not planned.stderr


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(path.stem, marks=() if path.stem in {"dgx-1", "4xa6000-two-bridges"} else pytest.mark.matrix)
        for path in sorted(TOPOLOGIES.glob("*.txt"))
    ],
)
@pytest.mark.e2e
def test_on_such_a_machine_the_command_is_the_same(machine: str, tmp_path: Path) -> None:
    topology = TOPOLOGIES / f"{machine}.txt"
    planned = run(SCRIPT, "--dry-run", "--nvidia-smi", topology, "--", "x.py")
    there = run(SCRIPT, *("--dry-run", "--", "x.py"), PATH=path_with(tmp_path, nvidia_smi=nvidia_smi(topology)))
    assert planned.returncode == 0, planned.stderr
    assert (there.stdout, there.stderr) == (planned.stdout, planned.stderr)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run on two ranks with the embedded model."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model: embedded\nprompt: [a red circle]\nsteps: 1\nguidance: 3.5\noptions: {{max_sequence_length: 24}}\n"
        f"tokenring_degree: 2\noutput: {tmp_path / 'picture.png'}\n"
    )
    return path


@pytest.mark.e2e
def test_a_config_says_how_many_ranks_and_which_of_them_are_close(config: Path) -> None:
    wishes = ("tokenring_degree=3", "ulysses_degree=2", "prompt=[a blue square]")
    planned = run(SCRIPT, "--dry-run", DGX_1, config, *wishes)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.endswith(
        f" -m tokenring_xdit.cli run {config} tokenring_degree=3 ulysses_degree=2 prompt=\\[a\\ blue\\ square\\]\n"
    )
    for option in (["--ulysses-degree=2"], ["--ulysses-degree=3"]):
        program = run(SCRIPT, "--dry-run", DGX_1, "--ranks=6", *option, "--", "x.py")
        same = program.stdout.split(" -m tokenring")[0] == planned.stdout.split(" -m tokenring")[0]
        assert same == (option == ["--ulysses-degree=2"])


@pytest.mark.parametrize("task", ["text", pytest.param("picture", marks=pytest.mark.matrix)])
@pytest.mark.e2e
def test_a_config_runs(task: str, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    if task == "text":  # whose ranks import less
        small_model_folder(tmp_path / "model")
        output = tmp_path / "answer.txt"
        config.write_text(
            f"task: text\nmodel: {tmp_path / 'model'}\nprompt: [Who did it]\noptions: {{max_new_tokens: 2}}\n"
            f"tokenring_degree: 2\noutput: {output}\n"
        )
    ran = run(SCRIPT, "--cpu", config)
    assert ran.returncode == 0, ran.stderr
    assert output.stat().st_size > 0
    assert "(2 ranks, " in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks=3"], "asks for 2 ranks, tokenring_degree 2 times ulysses_degree 1; on 1 node(s) with --ranks 3"),
        (["--ulysses-degree=2"], "--ulysses-degree is for a PROGRAM"),
    ],
)
@pytest.mark.e2e
def test_what_does_not_fit_the_config_is_refused(arguments: list[str], message: str, config: Path) -> None:
    refused = run(SCRIPT, "--cpu", "--dry-run", *arguments, config)
    assert refused.returncode == 2
    assert message in refused.stderr


@pytest.mark.e2e
def test_mistakes_in_a_config_are_told_once(config: Path) -> None:
    refused = run(SCRIPT, "--cpu", config, "steps=many")
    assert refused.returncode == 2
    assert refused.stderr.count("steps") == 1 and "Traceback" not in refused.stderr
    refused = run(SCRIPT, "--dry-run", DGX_1, config, "tokenring_degree=9")
    assert refused.returncode == 2
    assert "9 ranks were asked for; 8 GPUs may be used" in refused.stderr


def devices(*arguments: str, machine: str = "dgx-1", **more: str) -> str:
    planned = run(SCRIPT, "--dry-run", "--nvidia-smi", TOPOLOGIES / f"{machine}.txt", *arguments, "--", "x.py", **more)
    assert planned.returncode == 0, planned.stderr
    (found,) = (word for word in shlex.split(planned.stdout) if word.startswith("CUDA_VISIBLE_DEVICES="))
    assert f"--ranks {found.count(',') + 1} x.py" in planned.stdout
    return found.removeprefix("CUDA_VISIBLE_DEVICES=")


def test_only_visible_gpus_are_used() -> None:
    assert devices(CUDA_VISIBLE_DEVICES="7,6,5,4") == "4,5,6,7"
    assert devices("--gpus", "1,3", CUDA_VISIBLE_DEVICES="0,1,2,3") == "1,3"
    assert devices("--gpus=1,3,5,7", "--ranks=2") == "1,5"  # the only two with a double link


def test_a_given_order_is_kept() -> None:
    for wishes in (["--gpus", "3,1,2"], ["--gpus=3,1,2,0", "--ranks=3"]):
        planned = run(SCRIPT, "--dry-run", "--keep-order", *wishes, "--", "x.py")
        assert "CUDA_VISIBLE_DEVICES=3,1,2 " in planned.stdout
        assert "--ranks 3 " in planned.stdout
    planned = run(SCRIPT, "--dry-run", "--keep-order", "--", "x.py", CUDA_VISIBLE_DEVICES="GPU-8932f937,GPU-1b")
    assert "CUDA_VISIBLE_DEVICES=GPU-8932f937,GPU-1b " in planned.stdout


def test_variables_of_the_user_stay() -> None:
    planned = run(
        SCRIPT,
        *("--dry-run", "--nvidia-smi", TOPOLOGIES / "dgx-1.txt", "--", "x.py"),
        NCCL_DEBUG="INFO",
        CUDA_DEVICE_ORDER="FASTEST_FIRST",
    )
    assert "NCCL_DEBUG=INFO" in planned.stdout and "NCCL_DEBUG=WARN" not in planned.stdout
    assert "CUDA_DEVICE_ORDER=FASTEST_FIRST" in planned.stdout
    assert "CUDA may number GPUs otherwise" in planned.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a CONFIG file"),
        (["--"], "nothing to start after --"),
        (["--dry-run", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["--gpu", "1", "--", "x.py"], "unknown option --gpu"),
        (["--gpus"], "--gpus needs a value"),
        (["--gpus=", "--", "x.py"], "--gpus needs a value"),
        (["--ranks", "two", "--", "x.py"], "--ranks takes a number, not 'two'"),
        (["--ranks", "0", "--", "x.py"], "--ranks takes a number, not '0'"),
        ([__file__, "--dry-run"], "'--dry-run' is no key=value; options come before"),
        ([__file__, "steps"], "'steps' is no key=value"),
        (["--cpu", "--", "x.py"], "--cpu needs --ranks"),
        (["--cpu", "--ranks=2", "--gpus=0,1", "--", "x.py"], "--cpu does not go with --gpus"),
        ([DGX_1, "--", "x.py"], "--nvidia-smi plans for another machine: it goes with --dry-run"),
        (["--dry-run", "--nvidia-smi=nowhere.txt", "--", "x.py"], "there is no file nowhere.txt"),
        (["--dry-run", f"--nvidia-smi={__file__}", "--", "x.py"], "no output of 'nvidia-smi topo -m'"),
        (["--dry-run", DGX_1, "--ranks=9", "--", "x.py"], "9 ranks were asked for; 8 GPUs may be used"),
        (["--dry-run", DGX_1, "--gpus=0,8", "--", "x.py"], "there is no GPU 8"),
        (["--dry-run", "--keep-order", "--", "x.py"], "--keep-order needs GPUs in an order"),
        (["--dry-run", "--keep-order", "--gpus=0,1", "--ranks=3", "--", "x.py"], "3 ranks were asked for; 2 GPUs"),
        (["--dry-run", "--keep-order", DGX_1, "--gpus=0,1", "--", "x.py"], "--keep-order does not look at links"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], message: str) -> None:
    refused = run(SCRIPT, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not refused.stdout


def test_gpus_hidden_from_cuda_are_refused() -> None:
    refused = run(SCRIPT, "--dry-run", DGX_1, "--gpus=6,7", "--", "x.py", CUDA_VISIBLE_DEVICES="0,1,6")
    assert refused.returncode == 2
    assert "GPU 7 is not in CUDA_VISIBLE_DEVICES, which is 0,1,6" in refused.stderr
    refused = run(SCRIPT, "--dry-run", DGX_1, "--", "x.py", CUDA_VISIBLE_DEVICES="")
    assert refused.returncode == 2
    assert "CUDA_VISIBLE_DEVICES is ''" in refused.stderr


def test_a_machine_without_gpus_is_refused(tmp_path: Path) -> None:
    refused = run(SCRIPT, "--", "x.py", PATH=path_with(tmp_path))
    assert refused.returncode == 2
    assert "there is no nvidia-smi" in refused.stderr and "--cpu --ranks N" in refused.stderr


def test_a_driver_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    path = path_with(tmp_path, nvidia_smi="echo NVIDIA-SMI has failed; exit 9")
    refused = run(SCRIPT, "--", "x.py", PATH=path)
    assert refused.returncode == 2
    assert "'nvidia-smi topo -m' failed: NVIDIA-SMI has failed" in refused.stderr


def test_an_environment_without_the_package_is_refused(tmp_path: Path) -> None:
    refused = run(SCRIPT, "--dry-run", DGX_1, "--", "x.py", PYTHON=str(tmp_path / "python"))
    assert refused.returncode == 2
    assert "set PYTHON" in refused.stderr
    bare = path_with(tmp_path, python=f'exec {sys.executable} -I -S "$@"')
    refused = run(SCRIPT, "--dry-run", DGX_1, "--", "x.py", PATH=bare, PYTHON="python")
    assert refused.returncode == 2
    assert "'python' has no tokenring-xdit" in refused.stderr


@pytest.mark.parametrize("script", ["launch-node.sh", "launch-nodes.sh"])
def test_help_names_every_option(script: str) -> None:
    shown = run(script, "--help")
    assert shown.returncode == 0
    for option in ("--ranks", "--ulysses-degree", "--gpus", "--keep-order", "--cpu", "--dry-run", "--nvidia-smi"):
        assert option in shown.stdout
    assert "usage: bash scripts/" + script in shown.stdout and "example: " in shown.stdout


@pytest.mark.e2e
def test_ranks_on_the_cpu_compute_attention() -> None:
    """What --dry-run prints is what runs."""
    wanted = ("--cpu", "--ranks", "2", "--", str(RING_ATTENTION), "two words")
    ran = run(SCRIPT, *wanted)
    assert ran.returncode == 0, ran.stderr
    found = lines(ran.stdout)
    assert [(line["rank"], line["ranks"], line["arguments"]) for line in found] == [
        (0, 2, ["two words"]),
        (1, 2, ["two words"]),
    ]
    assert all(line["variables"]["CUDA_VISIBLE_DEVICES"] == "" for line in found)
    printed = run(SCRIPT, "--dry-run", *wanted).stdout
    pasted = subprocess.run(
        ["bash", "-c", printed], capture_output=True, text=True, timeout=300, env=environment(), check=False
    )
    assert lines(pasted.stdout) == found


@pytest.mark.e2e
def test_ranks_find_their_gpus_in_the_order_of_the_ring(tmp_path: Path) -> None:
    """No GPU is there, so that the ranks talk over gloo; that they get the right one, their environment says."""
    topology = tmp_path / "topology.txt"
    topology.write_text("\tGPU0\tGPU1\tGPU2\nGPU0\tX\tSYS\tNV4\nGPU1\tSYS\tX\tSYS\nGPU2\tNV4\tSYS\tX\n")
    path = path_with(tmp_path, nvidia_smi=nvidia_smi(topology))
    ran = run(SCRIPT, "--ranks", "2", "--", RING_ATTENTION, PATH=path)
    assert ran.returncode == 0, ran.stderr
    assert [line["variables"] for line in lines(ran.stdout)] == 2 * [
        {
            "CUDA_VISIBLE_DEVICES": "0,2",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "NCCL_DEBUG": "WARN",
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
    ]


@pytest.mark.e2e
def test_a_program_that_fails_fails_the_launch() -> None:
    ran = run(SCRIPT, "--cpu", "--ranks=1", "--", "-m", "tokenring_xdit.cli", "schedule", "show", "nothing")
    assert ran.returncode not in (0, 2)
