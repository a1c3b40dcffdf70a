"""The notebook, cell by cell, in a process of its own, as Jupyter runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.text_models import SMOLLM2, model_files

NOTEBOOK = Path(__file__).parents[2] / "examples" / "llm.ipynb"


def cells() -> list[dict[str, object]]:
    """Those with code."""
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert read["nbformat"] == 4
    return [cell for cell in read["cells"] if cell["cell_type"] == "code"]


@pytest.mark.e2e
def test_the_notebook_prints_what_it_shows() -> None:
    try:
        model_files(SMOLLM2)
    except ConfigurationError as error:
        pytest.skip(str(error))
    mark = "\n---- end of a cell\n"
    sources = ["".join(cell["source"]) for cell in cells()]  # type: ignore[arg-type]
    program = "\n".join(f"{source}\nprint({mark!r}, end='', flush=True)" for source in sources)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(mark)[:-1]
    shown = ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells()]  # type: ignore[attr-defined]
    assert [text.strip() for text in printed] == [text.strip() for text in shown]
    read, *held = map(int, re.findall(r"\d+", printed[2]))
    assert max(held) < 0.6 * read
