"""A notebook run cell by cell, as Jupyter runs it: what its cells print, and what the last expression of each shows.

python -m tests.scripts.notebook_run examples/engine.ipynb            prints the outputs as JSON
python -m tests.scripts.notebook_run examples/engine.ipynb --keep     writes them into the notebook as well
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["code_cells", "run_cells"]


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells with code."""
    read = json.loads(notebook.read_text(encoding="utf-8"))
    assert read["nbformat"] == 4
    return [cell for cell in read["cells"] if cell["cell_type"] == "code"]


def run_cells(cells: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, in the notebook's own form."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(cells, start=1):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"cell {number}", "exec"), names)
            shown = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
        if hasattr(shown, "_repr_png_"):
            data = {"image/png": base64.b64encode(shown._repr_png_()).decode()}
            outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
        found.append(outputs)
    return found


if __name__ == "__main__":
    file = Path(sys.argv[1])
    content = json.loads(file.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    outputs = run_cells(cells)
    if "--keep" in sys.argv:
        for number, (cell, output) in enumerate(zip(cells, outputs, strict=True), start=1):
            cell.update(outputs=output, execution_count=number)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(outputs))
