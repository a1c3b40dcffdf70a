"""Another interpreter that runs a module of this package, and imports nothing from the working folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tokenring_xdit

__all__ = ["run_module"]

_ROOT = str(Path(tokenring_xdit.__file__).parents[1])

# Python puts the working folder first, where a file html.py or queue.py of the user's would stand for that module;
# its option -P for that is of 3.11. The root is this copy of the package, where another one is installed.
_PROGRAM = """
import sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:] = [folder for folder in sys.path if folder]
if root not in sys.path:
    sys.path.insert(0, root)
import runpy
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_module(module: str, words: Sequence[object]) -> list[str]:
    """The command that runs a module, as ``python -m`` does from another folder.

    Args:
        module: Its name.
        words: Its arguments.
    """
    return [sys.executable, "-c", _PROGRAM, _ROOT, module, *map(str, words)]
