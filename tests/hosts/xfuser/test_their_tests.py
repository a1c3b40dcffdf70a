"""xfuser's own tests, which its wheel holds, come out the same with this package and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

ONLY_THE_PLATFORM = """
import wrapt
from tokenring_xdit.hosts.xfuser import platform_cpu

if platform_cpu.no_accelerator():
    platform_cpu.prepare_torch()
    for module, hook in platform_cpu.HOOKS.items():
        wrapt.register_post_import_hook(hook, module)
"""
"""A plugin of pytest's: xfuser cannot be imported on a machine without an accelerator otherwise."""


def outcomes(folder: Path, *options: str, autoload: str) -> dict[str, str]:
    found = files("xfuser")
    theirs = next((file.locate() for file in found or () if str(file) == "tests/core/test_cli.py"), None)
    if theirs is None:
        pytest.skip("this xfuser brings no tests")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(Path(theirs).parents[1]), "-rA", "-q", "-p", "no:cacheprovider"),
            *("--import-mode=importlib", "--continue-on-collection-errors", "--tb=no", *options),
        ],
        cwd=folder,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": autoload, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    lines = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+::\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return {test: outcome for outcome, test in lines}


@pytest.mark.matrix
def test_their_tests_come_out_the_same(tmp_path: Path) -> None:
    (tmp_path / "only_the_platform.py").write_text(ONLY_THE_PLATFORM)
    without = outcomes(tmp_path, "-p", "only_the_platform", autoload="0")
    assert sum(outcome == "PASSED" for outcome in without.values()) > 500
    assert outcomes(tmp_path, autoload="1") == without
