"""xfuser's own ``xdit`` command, unedited, with TokenRing's flags: real processes, small models in a hub cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.commands import free_port
from tests.support.families import FAMILIES
from tests.support.hub import OFFLINE, snapshot
from tokenring_xdit.autoload import AUTOLOAD

XDIT = Path(sys.executable).with_name("xdit")

ROUNDING = 2.0
"""How much further from one process TokenRing may be than Ring: the command computes in bf16 only, and small
models with random weights, and MP4, magnify what is rounded."""


@dataclass(frozen=True)
class Model:
    """A model of xfuser's registry, and the small one that stands in for it.

    Attributes:
        hub: Its name on the hub.
        family: Which small pipeline lies there.
        flags: What the command needs beside a size and a prompt.
    """

    hub: str
    family: str
    flags: tuple[str, ...]


MODELS = {
    "FLUX.1-dev": Model("black-forest-labs/FLUX.1-dev", "flux", ("--max_sequence_length", "16")),
    "SD3.5": Model("stabilityai/stable-diffusion-3.5-large", "sd3", ()),
    "Wan2.1-T2V": Model("Wan-AI/Wan2.1-T2V-14B-Diffusers", "wan-t2v", ("--num_frames", "5")),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache, as if the models had been downloaded."""
    root = tmp_path_factory.mktemp("hub")
    for model in MODELS.values():
        FAMILIES[model.family].make().save_pretrained(snapshot(root, model.hub))
    return root


def xdit(hub: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    offline = {**OFFLINE, "HF_HUB_CACHE": str(hub), "LOG_LEVEL": "error"}
    return subprocess.run(
        [str(XDIT), *arguments],
        env={**os.environ, **offline, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def drawn(hub: Path, name: str, folder: Path, *flags: str) -> NDArray[Any]:
    """What the command writes, ``[frames, height, width, 3]``."""
    folder.mkdir()
    common = ("--prompt", "a red fox", "--height", "64", "--width", "96", "--num_inference_steps", "2", "--seed", "3")
    port = ("--master_port", str(free_port()))  # several commands run at a time
    done = xdit(hub, "--model", name, *port, *common, *MODELS[name].flags, "--output_directory", str(folder), *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = [path for path in folder.iterdir() if path.suffix in {".png", ".mp4"}]
    if "--tokenring_degree" in flags:
        assert "_tokenring2_token_ring" in written.name
    import imageio.v3

    pixels = np.asarray(imageio.v3.imread(written), dtype=np.float64)
    return pixels if pixels.ndim == 4 else pixels[None]


@pytest.mark.matrix
def test_the_stock_command_says_once_what_auto_chose(hub: Path, tmp_path: Path) -> None:
    flags = ("--height", "64", "--width", "96", "--num_inference_steps", "2", *MODELS["FLUX.1-dev"].flags)
    tokenring = ("--tokenring_degree", "2", "--tokenring_schedule", "auto", "--output_directory", str(tmp_path))
    known = {"TOKENRING_TOPOLOGY": "mesh:2:1gbit"}
    done = xdit(hub, "--model", "FLUX.1-dev", "--prompt", "a red fox", *flags, *tokenring, environment=known)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in tmp_path.glob("*_tokenring2_auto*.png")]
    assert done.stderr.count("schedule auto: ") == 1
    assert "predicted on mesh:2:1gbit" in done.stderr


def drawn_in_ways(hub: Path, name: str, tmp_path: Path, *ways: tuple[str, ...]) -> list[NDArray[Any]]:
    """What the command writes with each of some flags, all at a time."""
    with ThreadPoolExecutor(len(ways)) as pool:
        return list(pool.map(lambda way: drawn(hub, name, tmp_path / str(way), *ways[way]), range(len(ways))))


@pytest.mark.e2e
@pytest.mark.smoke
def test_the_stock_command_draws_the_same_with_tokenring(hub: Path, tmp_path: Path) -> None:
    alone, together = drawn_in_ways(hub, "FLUX.1-dev", tmp_path, (), ("--tokenring_degree", "2"))
    assert alone.std() > 10
    difference = np.abs(together - alone).mean()
    print(f"{difference:.2f} of 255 on average")
    assert difference <= 1.0  # twice what Ring is off, in bf16


@pytest.mark.matrix
@pytest.mark.parametrize("name", MODELS)
def test_the_stock_command_is_no_further_off_than_with_ring(hub: Path, tmp_path: Path, name: str) -> None:
    ways = ((), ("--ring_degree", "2"), ("--tokenring_degree", "2"))
    alone, ring, together = drawn_in_ways(hub, name, tmp_path, *ways)
    assert alone.std() > 10
    yardstick, difference = np.abs(ring - alone).mean(), np.abs(together - alone).mean()
    print(f"{name}: {difference:.2f} of 255 on average, Ring {yardstick:.2f}")
    assert difference <= ROUNDING * max(yardstick, 0.25)


@pytest.mark.matrix
def test_switched_off_the_command_does_not_know_the_flag(hub: Path) -> None:
    arguments = ("--model", "FLUX.1-dev", "--prompt", "a", "--tokenring_degree", "2")
    done = xdit(hub, *arguments, environment={AUTOLOAD: "0"})
    assert done.returncode != 0
    assert "tokenring_degree" not in done.stdout
    # without our platform xfuser does not even import on a machine without an accelerator
    assert "unrecognized arguments: --tokenring_degree" in done.stderr or "No Accelerators" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tokenring-degree", "2", "--tokenring-schedule", "rings"), "there is no schedule 'rings'"),
        pytest.param(
            ("--tokenring_degree", "0"),
            "tokenring_degree is 0; it has to be a whole number of at least 1",
            marks=pytest.mark.matrix,
        ),
        pytest.param(
            ("--tokenring_degree", "3", "--tokenring_schedule", "hierarchical:nodes=2"),
            "3 ranks",
            marks=pytest.mark.matrix,
        ),
    ],
)
@pytest.mark.e2e
def test_what_cannot_work_is_said_once_before_ranks_start(hub: Path, flags: tuple[str, ...], message: str) -> None:
    done = xdit(hub, "--model", "FLUX.1-dev", "--prompt", "a", *flags)
    assert done.returncode != 0
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.matrix
def test_a_model_that_cannot_be_compared_is_refused_before_ranks_start(hub: Path) -> None:
    done = xdit(hub, "--model", "LingBot-Video-Dense", "--prompt", "a", "--tokenring_degree", "2")
    assert done.returncode != 0
    assert done.stderr.count("tokenring_degree=2 was asked for with LingBot-Video-Dense: it needs the package") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "FLUX.1-dev",
            ("--tokenring_degree", "2", "--ulysses_degree", "3"),
            "ulysses_degree=3 does not divide the model's 4 heads",
        ),
        ("SD3.5", ("--tokenring_degree", "3"), "a height of 64 pixels cannot be cut over 3 ranks"),
    ],
)
def test_what_ranks_refuse_is_the_last_word(hub: Path, name: str, flags: tuple[str, ...], message: str) -> None:
    common = ("--prompt", "a", "--height", "64", "--width", "96", "--num_inference_steps", "1")
    done = xdit(hub, "--model", name, *common, *MODELS[name].flags, *flags)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(f"xdit: {message}")
    assert done.stderr.count(message) == 1
