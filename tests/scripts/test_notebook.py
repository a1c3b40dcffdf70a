"""The notebooks, cell by cell, each in a process of its own, as Jupyter runs them."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scripts.notebook_run import code_cells
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.text_models import SMOLLM2, model_files

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """The outputs that a notebook has, and those of running it."""
    notebook = EXAMPLES / name
    command = [sys.executable, "-m", "tests.scripts.notebook_run", str(notebook)]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return [cell["outputs"] for cell in code_cells(notebook)], json.loads(done.stdout)


def texts(outputs: list[list[dict[str, Any]]]) -> list[str]:
    """What each cell printed."""
    return ["".join("".join(each.get("text", "")) for each in cell).strip() for cell in outputs]


def pictures(outputs: list[list[dict[str, Any]]]) -> list[np.ndarray[Any, Any]]:
    """The pictures that are shown."""
    found = [each["data"]["image/png"] for cell in outputs for each in cell if "data" in each]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=int) for data in found]


@pytest.mark.matrix
def test_the_notebook_of_pictures_shows_what_two_ranks_make() -> None:
    shown, made = run("engine.ipynb")
    assert len(pictures(shown)) == len(pictures(made)) == 2
    for before, now in zip(pictures(shown), pictures(made), strict=True):
        assert before.shape == now.shape
        assert np.abs(before - now).mean() < 1  # processors round differently
    assert int(re.findall(r"\d+", texts(made)[3])[0]) <= 2


@pytest.mark.matrix
def test_the_notebook_of_a_language_model_prints_what_it_shows() -> None:
    try:
        model_files(SMOLLM2)
    except ConfigurationError as error:
        pytest.skip(str(error))
    shown, made = run("llm.ipynb")
    assert texts(made) == texts(shown)
    read, *held = map(int, re.findall(r"\d+", texts(made)[2]))
    assert max(held) < 0.6 * read
