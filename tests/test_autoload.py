"""What ``import torch`` does with TokenRing installed: next to nothing, and never an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tokenring_xdit.autoload import AUTOLOAD


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITH_TORCH = """
import sys, torch
print(*sorted(m for m in sys.modules if m.startswith('tokenring_xdit')))
print('xfuser' in sys.modules)
import wrapt.importer
print('xfuser.logger' in wrapt.importer._post_import_hooks)
"""


@pytest.mark.e2e
def test_import_torch_loads_nothing_but_the_hook() -> None:
    assert python(WITH_TORCH).splitlines() == ["tokenring_xdit tokenring_xdit.autoload", "False", "True"]


@pytest.mark.parametrize("off", [AUTOLOAD, "TORCH_DEVICE_BACKEND_AUTOLOAD"])
@pytest.mark.e2e
def test_it_can_be_switched_off(off: str) -> None:
    """It is on otherwise: see above."""
    assert python(WITH_TORCH, **{off: "0"}).splitlines()[-1] == "False"


def test_it_never_breaks_import_torch() -> None:
    assert python("import sys; sys.modules['wrapt'] = None; import torch; print(torch.tensor(1).item())") == "1"


@pytest.mark.parametrize("imports", [pytest.param("torch, xfuser", marks=pytest.mark.matrix), "xfuser"])
@pytest.mark.e2e
def test_import_xfuser_is_enough_to_register(imports: str) -> None:
    code = f"import {imports}; print(hasattr(xfuser.xFuserArgs, 'tokenring_degree'))"
    assert python(code, LOG_LEVEL="error").splitlines()[-1] == "True"


@pytest.mark.e2e
def test_it_attaches_nothing_after_that_was_undone() -> None:
    code = """
import torch
from tokenring_xdit import autoload
from tokenring_xdit.hosts import installed
installed().undo()
autoload._register(None)
print(installed().hosts)
"""
    assert python(code) == "set()"


@pytest.mark.e2e
def test_another_xfuser_is_left_working_and_tokenring_refused() -> None:
    code = """
import torch
import tokenring_xdit.hosts.xfuser.dispatch as dispatch
def install(usp): raise AttributeError("no ring_attn")
dispatch.install = install
import xfuser
from tokenring_xdit.hosts.xfuser.choice import make_choice
assert make_choice(1, None, 1) is None
try:
    make_choice(2, None, 1)
except Exception as error:
    print(error)
"""
    said = python(code, LOG_LEVEL="error").splitlines()[-1]
    assert "could not attach itself to xfuser.model_executor.layers.usp" in said
    assert "Use xfuser 0.7.0" in said
