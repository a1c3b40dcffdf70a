"""The programs of ``examples/`` over two ranks of torchrun, with small models, beside unmodified pipelines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.families import ALL_FAMILIES
from tests.support.language import small_model_folder
from tokenring_xdit.pipelines.embedded import MODEL_PATH

ROOT = Path(__file__).parents[2]


def torchrun(program: str, *arguments: Any) -> str:
    """What a program prints, over two ranks."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [*start, str(ROOT / "examples" / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.e2e
def test_flux_makes_the_picture_of_one_process(tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    file = tmp_path / "circle.png"
    said = ["--model", "embedded", "--prompt", "a red circle", "--size", 64, "--steps", 2, "--seed", 3]
    torchrun("flux.py", *said, "--output", file)
    pipe = FluxPipeline.from_pretrained(str(MODEL_PATH))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    wanted = pipe("a red circle", height=64, width=64, num_inference_steps=2, generator=generator).images[0]
    assert np.abs(np.asarray(wanted, dtype=int) - np.asarray(Image.open(file), dtype=int)).max() <= 1


@pytest.mark.matrix
def test_wan_makes_the_video_of_one_process(tmp_path: Path) -> None:
    from diffusers.utils import export_to_video

    pytest.importorskip("imageio_ffmpeg")
    family = ALL_FAMILIES["wan-t2v"]
    if family.missing:
        pytest.skip("this diffusers has no such pipeline")
    pipe = family.make()
    pipe.save_pretrained(tmp_path / "wan")
    said = ["--model", tmp_path / "wan", "--prompt", "a red fox", "--height", 64, "--width", 64, "--frames", 9]
    torchrun("wan.py", *said, "--steps", 2, "--output", tmp_path / "two.mp4")
    options = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2}
    wanted = pipe("a red fox", **options, generator=torch.Generator().manual_seed(0)).frames[0]
    export_to_video(wanted, str(tmp_path / "one.mp4"), fps=16)
    one, two = (frames(tmp_path / name) for name in ("one.mp4", "two.mp4"))
    assert one.shape == two.shape
    assert one.std() > 5
    assert np.abs(one - two).mean() < 1  # the codec makes more of a pixel that is rounded otherwise


def frames(file: Path) -> np.ndarray[Any, Any]:
    """Those of a video."""
    import imageio.v3 as imageio

    return np.stack(list(imageio.imiter(file))).astype(int)


@pytest.mark.matrix
def test_a_language_model_answers_as_one_process_does(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    small_model_folder(tmp_path / "model")
    (tmp_path / "text.txt").write_text("The lamp of the lighthouse turned. " * 8)
    said = ["--model", tmp_path / "model", "--text", tmp_path / "text.txt", "--question", "What turned?"]
    printed = torchrun("language_model.py", *said, "--tokens", 24)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    messages = [{"role": "user", "content": f"{(tmp_path / 'text.txt').read_text()}\n\nWhat turned?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    wanted = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert len(wanted) > 4
    assert tokenizer.decode(wanted, skip_special_tokens=True).strip() in printed


def test_the_job_runs_the_launcher_of_the_repository() -> None:
    command = ["bash", "examples/flux.sbatch", "--dry-run", "steps=20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("srun --nodes NODES")
    assert "configs/flux-tokenring-2nodes.yaml steps=20" in done.stdout
