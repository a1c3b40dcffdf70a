"""``tokenring-xdit run`` and ``config``: real ranks, against the unmodified diffusers pipeline in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
import psutil
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from tests.support import commands
from tests.support.embedded import made_alone
from tests.support.families import FAMILIES
from tokenring_xdit.cli import main
from tokenring_xdit.cli.arguments.run import KEYS
from tokenring_xdit.pipelines.tasks import TASKS

PROMPTS = ["a red circle left of a blue square", "a green square"]


def write(folder: Path, **values: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def frames_of(path: Path) -> NDArray[Any]:
    """Pixels, ``[frames, height, width, 3]``."""
    pixels = np.asarray(imageio.v3.imread(path), dtype=int)
    return pixels if pixels.ndim == 4 else pixels[None]


def torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    return subprocess.run(
        [*start, "-m", "tokenring_xdit.cli", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.e2e
def test_prompts_of_a_config_become_pictures(tmp_path: Path) -> None:
    config = write(tmp_path, model="embedded", prompt=PROMPTS, guidance=3.5, tokenring_degree=2, seed=4)
    output = tmp_path / "new folder" / "drawn.png"
    words = ("run", str(config), "steps=3", "batch_size=2", f"output={output}", "--json")
    done, listening = commands.watched(*words, environment=commands.ELSEWHERE)
    assert done.returncode == 0, done.stderr
    assert listening == {"127.0.0.1"}
    answer = json.loads(done.stdout)
    assert answer["ranks"] == 2
    assert [entry["seed"] for entry in answer["written"]] == [4, 5]
    asked = [(prompt, 4 + index) for index, prompt in enumerate(PROMPTS)]
    pictures = made_alone(asked, steps=3, guidance_scale=3.5)
    for index, (entry, expected) in enumerate(zip(answer["written"], pictures, strict=True)):
        assert entry["prompt"] == PROMPTS[index]
        assert entry["output"] == str(output.with_stem(f"drawn-{index}"))
        difference = np.abs(frames_of(Path(entry["output"])) - np.asarray(expected, dtype=int)).max()
        assert difference <= 1


@pytest.mark.parametrize(
    ("family", "key"),
    [
        *(("wan-t2v", "num_frames"), ("cogvideox", "num_frames"), ("wan-i2v", "num_frames")),
        *(("sd3", None), ("pixart-sigma", None), ("flux-control", None)),
    ],
)
@pytest.mark.e2e
@pytest.mark.matrix
def test_under_torchrun_the_command_is_one_of_the_ranks(tmp_path: Path, family: str, key: str | None) -> None:
    from tokenring_xdit.pipelines.request import save

    pipe = FAMILIES[family].make()
    pipe.save_pretrained(tmp_path / "model")
    video = key is not None
    output, reference = (tmp_path / f"{name}{'.mp4' if video else '.png'}" for name in ("drawn", "reference"))
    values: dict[str, Any] = {"size": "96x128", "steps": 2, "tokenring_degree": 2, "options": {}}
    call: dict[str, Any] = {"width": 96, "height": 128, "num_inference_steps": 2, "output_type": "np"}
    if family == "pixart-sigma":
        values["options"]["use_resolution_binning"] = call["use_resolution_binning"] = False
    if family in {"wan-i2v", "flux-control"}:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 96, 3), dtype=np.uint8))
        picture.save(tmp_path / "start.png")
        values["image"] = str(tmp_path / "start.png")
        call["control_image" if family == "flux-control" else "image"] = picture
    if key is not None:
        values["frames"] = call[key] = 5
    config = write(tmp_path, model=str(tmp_path / "model"), prompt="a red fox", output=str(output), seed=3, **values)
    done = torchrun(2, str(config))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1
    assert f"wrote {output} (2 ranks, " in done.stdout
    pipe = type(pipe).from_pretrained(tmp_path / "model")
    made = pipe(prompt="a red fox", generator=torch.Generator().manual_seed(3), **call)
    frames = np.asarray(made.frames[0] if video else made.images)

    def written(frames: NDArray[Any]) -> NDArray[Any]:
        pictures = [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in frames]
        save(pictures if video else pictures[0], reference)
        return frames_of(reference)

    expected = written(frames)
    assert expected.std() > 30
    difference = np.abs(frames_of(output) - expected)
    if not video:
        assert difference.max() <= 1 and difference.mean() <= 0.5
        return
    # MP4 magnifies rounding, from frame to frame the more: as much as it does of the 1e-5 that attention may be off.
    nudged = np.clip(frames + 1e-5 * np.random.default_rng(0).standard_normal(frames.shape), 0, 1)
    magnified = np.abs(written(nudged) - expected).mean()
    print(f"{family}: {difference.mean():.2f} of 255 on average, nudged {magnified:.2f}")
    assert difference.mean() <= min(4, 1.5 * magnified)


def test_another_number_of_ranks_than_torchrun_started_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("LOG_LEVEL", "KINETO_LOG_LEVEL", "PYTHONWARNINGS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the command leaves, undone
    assert main(["run", "configs/embedded.yaml", "tokenring_degree=3"]) == 2
    said = "tokenring_degree=3 is 3 ranks, and 2 were started: use 2 as the degree"
    assert said in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.matrix
def test_torchrun_with_another_number_of_ranks_is_refused() -> None:
    done = torchrun(2, "configs/embedded.yaml", "tokenring_degree=3")
    assert done.returncode != 0
    assert "tokenring_degree=3 is 3 ranks, and 2 were started: use 2 as the degree" in done.stderr
    assert "--nproc-per-node=3" in done.stderr


@pytest.mark.e2e
@pytest.mark.matrix
def test_nodes_with_different_configs_are_refused_on_all(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(commands.free_port())}
    ranks = [
        commands.start("run", "configs/embedded.yaml", f"steps={3 + rank}", environment={**world, "RANK": str(rank)})
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert f"rank {rank} failed: all ranks make one run together, but steps is 3 on rank 0 and 4 on rank 1" in err


@pytest.mark.parametrize(
    ("ulysses", "tokenring", "topology"),
    [
        (1, 2, "mesh:2:10gbit"),
        pytest.param(1, 1, "mesh:2:10gbit", marks=pytest.mark.matrix),
        pytest.param(2, 2, "two-level:2x2:10gbit:1gbit", marks=pytest.mark.matrix),
    ],
)
@pytest.mark.e2e
def test_a_picture_from_flags_is_that_of_one_process(
    tmp_path: Path, ulysses: int, tokenring: int, topology: str
) -> None:
    output = tmp_path / "new folder" / "drawn.png"
    options = ["--ulysses-degree", str(ulysses), "--tokenring-degree", str(tokenring), "--schedule", "auto"]
    drawing = ["--prompt", PROMPTS[0], "--steps", "6", "--seed", "3", "--guidance", "2", "--output", str(output)]
    done = commands.run("run", *options, *drawing, "--json", environment={"TOKENRING_TOPOLOGY": topology})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("schedule auto: ") == (tokenring > 1)  # all calls have the same shape
    answer = json.loads(done.stdout)
    assert answer["ranks"] == ulysses * tokenring
    assert answer["written"][0]["output"] == str(output)
    assert "denoising" in done.stderr  # the progress bar
    (picture,) = made_alone([(PROMPTS[0], 3)], steps=6, guidance_scale=2.0)
    expected = np.asarray(picture, dtype=int)
    assert frames_of(output).shape == (1, *expected.shape)
    assert np.abs(frames_of(output) - expected).max() <= 1


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_size_that_nothing_divides_on_a_model_with_random_weights(tmp_path: Path) -> None:
    one, three = tmp_path / "one.png", tmp_path / "three.png"
    model = ["--model", "random-flux:double=1,single=1,heads=4,head_dim=16,text_tokens=17", "--prompt", "a fox"]
    for output, ranks in ((one, "1"), (three, "3")):
        drawing = ["--size", "144x80", "--steps", "2", "--tokenring-degree", ranks, "--output", str(output)]
        done = commands.run("run", *model, *drawing)
        assert done.returncode == 0, done.stderr
        assert f"wrote {output} ({ranks} rank" in done.stdout
    assert frames_of(one).shape == (1, 80, 144, 3)
    assert np.abs(frames_of(one) - frames_of(three)).max() <= 1


def test_flags_are_the_keys_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    """All but those that no single word can say."""
    assert set(KEYS) == {key for config in TASKS.values() for key in config.model_fields} - {"extends", "options"}
    assert main(["run", "a.yaml", "b.yaml"]) == 2
    assert "a run has one config; a prompt stands behind --prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--ulysses-degree", "3"], ["does not divide the model's 4 heads", "1, 2, 4", "tokenring_degree takes any"]),
        (["--tokenring-degree", "65"], ["65 ranks are more than the 64 image tokens"]),
        (["--tokenring-degree", "4", "--schedule", "mesh:rows=3"], ["works for multiples of 3 ranks, not for 4"]),
        (["--tokenring-degree", "0"], ["tokenring_degree: 0 is not allowed"]),
        (["--schedule", "tokenrng"], ["no schedule 'tokenrng'", "Did you mean 'token_ring'?"]),
        (["--model", "./no/such/folder"], ["there is no model folder './no/such/folder'"]),
        (["--model", "nobody/no-such-model"], ["there is no model folder 'nobody/no-such-model'", "hub"]),
        (["--model", "random-flux:head=2"], ["has no option 'head'", "Did you mean 'heads'?"]),
        (["--size", "63"], ["not a multiple of 8 pixels"]),
        (["--size", "wide"], ["size 'wide' is neither"]),
        (["--steps", "0"], ["steps: 0 is not allowed; it has to be at least 1"]),
        (["--guidance", ".nan"], ["guidance: nan is not a finite number"]),
        (["--guidance", "-1"], ["guidance: -1 is not allowed; it has to be at least 0"]),
        (["--seed", "-1"], ["seed: -1 is not allowed"]),
        (["--size", "16x100000"], ["height is 100000 pixels, and 4096 are the most", "largest_side"]),
        (["--size", "128", "--largest-side", "64"], ["width is 128 pixels, and 64 are the most"]),
        (["--output", "picture.jpg"], ["does not end in .png or .mp4"]),
        (["--output", "/proc/no/picture.png"], ["output /proc/no/picture.png cannot be written"]),
        (["--prompt", "  "], ["a prompt is empty"]),
    ],
)
def test_refusals_of_flags_come_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], messages: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # instead of retrying a hub out of reach
    assert main(["run", "--prompt", PROMPTS[0], *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tokenring-xdit: ")
    assert "Errno" not in err
    for message in messages:
        assert message in err


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--prompt", "a", "--model", str(tmp_path)]) == 2
    assert "it has no model_index.json" in capsys.readouterr().err
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    assert main(["run", "--prompt", "a", "--model", str(tmp_path)]) == 2
    assert "is a KolorsPipeline, which has not been compared" in capsys.readouterr().err


def test_what_the_embedded_model_does_not_know_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenring_xdit.cli.run._start_ranks", lambda config: None)
    assert main(["run", "--prompt", "A red Fox, left of a dog.", "--size", "72x40"]) == 0
    err = capsys.readouterr().err
    assert "not among them: dog, fox;" in err
    assert "trained on pictures of 64x64 pixels" in err
    assert main(["run", "--prompt", "A red circle.", "--size", "64"]) == 0
    assert "note:" not in capsys.readouterr().err


FAR = "100000"  # steps: longer than any of these tests


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def wait_until_drawing(process: subprocess.Popen[str]) -> None:
    """Read the command's errors until its progress bar moves."""
    seen = ""
    assert process.stderr is not None
    while "1/" + FAR not in seen:
        character = process.stderr.read(1)
        assert character, f"the command ended: {seen}"
        seen += character


@pytest.mark.e2e
def test_a_rank_that_is_killed_is_named_and_takes_the_other_along(tmp_path: Path) -> None:
    drawing = ["--prompt", PROMPTS[0], "--tokenring-degree", "2", "--steps", FAR, "--output", str(tmp_path / "p.png")]
    with commands.start("run", *drawing) as process:
        ranks = commands.ranks_of(process, 2)
        wait_until_drawing(process)
        ranks[1].kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"rank 1 was killed by SIGKILL, as Linux does when memory runs out (process {ranks[1].pid})" in err
    assert gone(list(ranks.values()))
    assert not (tmp_path / "p.png").exists()


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_rank_that_raises_is_named_with_its_error(tmp_path: Path) -> None:
    code = """
import os
if os.environ.get("RANK") == "2":
    import wrapt

    def break_it(module):
        def load_pipeline(*args, **kwargs):
            raise MemoryError("the card is full")
        module.load_pipeline = load_pipeline

    wrapt.register_post_import_hook(break_it, "tokenring_xdit.pipelines.loading")
"""
    drawing = ["--prompt", PROMPTS[0], "--tokenring-degree", "3", "--steps", FAR, "--output", str(tmp_path / "p.png")]
    result = commands.run("run", *drawing, environment=commands.fault(tmp_path, code))
    assert result.returncode == 1
    assert "rank 2 failed: MemoryError: the card is full" in result.stderr
    assert "Traceback" not in result.stderr
    traceback = Path(result.stderr.split("(traceback: ")[1].split(")")[0])
    assert "in load_pipeline" in traceback.read_text()


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.matrix)],
    ids=["ctrl-c", "terminate"],
)
@pytest.mark.e2e
def test_an_interruption_leaves_no_process_behind(tmp_path: Path, how: signal.Signals, code: int) -> None:
    drawing = ["--prompt", PROMPTS[0], "--tokenring-degree", "2", "--steps", FAR, "--output", str(tmp_path / "p.png")]
    with commands.start("run", *drawing) as process:
        ranks = commands.ranks_of(process, 2)
        wait_until_drawing(process)
        process.send_signal(how)
        process.communicate(timeout=120)
    assert process.returncode == code
    assert gone(list(ranks.values()))


def test_a_run_that_cannot_work_is_refused_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "configs/embedded.yaml", "ulysses_degree=3", "frames=4", "stpes=2"]) == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    assert main(["run", "configs/embedded.yaml", "ulysses_degree=3", "frames=4"]) == 2
    err = capsys.readouterr().err
    assert "2 mistakes" in err
    assert main(["run", "configs/embedded.yaml", "cuda_graphs=true", "tokenring_degree=1"]) == 2
    assert "cuda_graphs is for ranks that share a transformer, and one rank" in capsys.readouterr().err
    assert main(["run", "configs/embedded.yaml", "output=/proc/no/picture.png"]) == 2
    assert "/proc/no/picture.png cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_cuda_graphs_are_refused_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "configs/embedded.yaml", "cuda_graphs=true", "tokenring_degree=2"]) == 2
    assert "cuda_graphs needs a GPU with CUDA, and torch finds none on this machine" in capsys.readouterr().err


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["config", "check", "configs/embedded.yaml"]) == 0
    assert capsys.readouterr().out == "configs/embedded.yaml: fine\n"
    unknown = write(tmp_path, model="nobody/no-such-model", prompt="a")
    assert main(["config", "check", str(unknown), "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert verdict["mistakes"] is None
    assert "not downloaded before, and the hub cannot be reached" in verdict["unseen"]
    wrong = write(tmp_path, model="embedded", prompt="a", ulysses_degree=3)
    assert main(["config", "check", "configs/embedded.yaml", str(wrong)]) == 2
    captured = capsys.readouterr()
    assert "configs/embedded.yaml: fine" in captured.out
    assert "does not divide the model's 4 heads" in captured.err
    assert main(["config", "check", "configs/embedded.yaml", "stpes=0"]) == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    assert main(["config", "check", "steps=4"]) == 2
    assert "name a config" in capsys.readouterr().err


def test_config_show_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "configs/flux-tokenring-8gpu.yaml", "steps=4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["model"], shown["steps"], shown["ulysses_degree"]) == ("black-forest-labs/FLUX.1-dev", 4, 2)
    assert main(["config", "schema", "--json"]) == 0
    properties = json.loads(capsys.readouterr().out)["properties"]
    assert main(["config", "schema"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(properties) == list(shown)
