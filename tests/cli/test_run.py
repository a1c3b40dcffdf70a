"""``tokenring-xdit run`` and ``config``: real ranks, against the unmodified diffusers pipeline in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from tests.support import commands
from tests.support.families import FAMILIES
from tokenring_xdit.cli import main
from tokenring_xdit.pipelines.embedded import MODEL_PATH

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
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.e2e
def test_prompts_of_a_config_become_pictures(tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    config = write(tmp_path, model="embedded", prompt=PROMPTS, guidance=3.5, tokenring_degree=2, seed=4)
    output = tmp_path / "new folder" / "drawn.png"
    done = commands.run("run", str(config), "steps=3", "batch_size=2", f"output={output}", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ranks"] == 2
    assert [entry["seed"] for entry in answer["written"]] == [4, 5]
    pipe = FluxPipeline.from_pretrained(MODEL_PATH)
    for index, entry in enumerate(answer["written"]):
        assert entry["prompt"] == PROMPTS[index]
        assert entry["output"] == str(output.with_stem(f"drawn-{index}"))
        call = {"width": 64, "height": 64, "num_inference_steps": 3, "guidance_scale": 3.5, "max_sequence_length": 24}
        expected = pipe(PROMPTS[index], generator=torch.Generator().manual_seed(4 + index), **call)
        difference = np.abs(frames_of(Path(entry["output"])) - np.asarray(expected.images[0], dtype=int)).max()
        assert difference <= 1


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("wan-t2v", "num_frames"),
        pytest.param("cogvideox", "num_frames", marks=pytest.mark.matrix),
        pytest.param("wan-i2v", "num_frames", marks=pytest.mark.matrix),
        pytest.param("sd3", None, marks=pytest.mark.matrix),
        pytest.param("pixart-sigma", None, marks=pytest.mark.matrix),
        pytest.param("flux-control", None, marks=pytest.mark.matrix),
    ],
)
@pytest.mark.e2e
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


@pytest.mark.e2e
def test_torchrun_with_another_number_of_ranks_is_refused() -> None:
    done = torchrun(2, "configs/embedded.yaml", "tokenring_degree=3")
    assert done.returncode != 0
    assert "tokenring_degree=3 times ulysses_degree=1 is 3 ranks, and torchrun started 2" in done.stderr
    assert "--nproc-per-node=3" in done.stderr


@pytest.mark.e2e
def test_nodes_with_different_configs_are_refused_on_all(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(commands.free_port())}
    ranks = [
        commands.start("run", "configs/embedded.yaml", f"steps={3 + rank}", environment={**world, "RANK": str(rank)})
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert f"rank {rank} failed: all ranks make one run together, but steps is 3 on rank 0 and 4 on rank 1" in err


def test_a_run_that_cannot_work_is_refused_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "configs/embedded.yaml", "ulysses_degree=3", "frames=4", "stpes=2"]) == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    assert main(["run", "configs/embedded.yaml", "ulysses_degree=3", "frames=4"]) == 2
    err = capsys.readouterr().err
    assert "2 mistakes" in err
    assert main(["run", "configs/embedded.yaml", "output=/proc/no/picture.png"]) == 2
    assert "/proc/no/picture.png cannot be written" in capsys.readouterr().err


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
