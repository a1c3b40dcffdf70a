"""Ctrl-C while commands import, which libraries may swallow, and what then is still running."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.support import commands

COMMANDS = {
    "run": ["configs/embedded.yaml", "steps=5000"],
    "compare": ["a red circle", "--steps", "5000"],
    "bench": ["configs/sweeps/smoke.yaml", "output={folder}/bench"],
    "probe": ["--ranks", "2"],
    "doctor": ["--ranks", "2", "--out", "{folder}/doctor"],
    "config": ["check", "configs/embedded.yaml"],
}

PRESS = """
import os, signal, sys, time

class Press:
    done = False

    def find_spec(self, name, path=None, target=None):
        if name == {name!r} and not self.done and "RANK" not in os.environ:
            Press.done = True
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except {swallowed}:
                pass
        return None

sys.meta_path.insert(0, Press())
"""


SWALLOWED = ["KeyboardInterrupt", "ZeroDivisionError"]
IMPORTS = [
    ("run", "tokenring_xdit.cli.commands"),
    ("run", "pydantic"),
    ("run", "torch"),
    ("run", "diffusers"),
    ("compare", "torch"),
    ("bench", "torch"),
    ("probe", "torch"),
    ("doctor", "torch"),
    ("config", "tokenring_xdit.workers.lifetime"),
]
QUICK = {*product(("tokenring_xdit.cli.commands", "pydantic"), SWALLOWED), ("diffusers", SWALLOWED[0])}
"""Modules, and what is swallowed while they are imported, that are tried without the matrix."""


@pytest.mark.parametrize(
    ("command", "name", "swallowed"),
    [
        pytest.param(command, name, swallowed, marks=() if (name, swallowed) in QUICK else pytest.mark.matrix)
        for (command, name), swallowed in product(IMPORTS, SWALLOWED)
    ],
)
@pytest.mark.e2e
def test_ctrl_c_during_an_import_is_heard(tmp_path: Path, command: str, name: str, swallowed: str) -> None:
    code = PRESS.format(name=name, swallowed=swallowed)
    arguments = [word.format(folder=tmp_path) for word in COMMANDS[command]]
    done = commands.run(command, *arguments, environment=commands.fault(tmp_path, code))
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "tokenring-xdit: interrupted\n"
