from __future__ import annotations

import subprocess

import pytest

from tokenring_xdit.cli import main


def test_bash_completes_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out + (
        "COMP_WORDS=(tokenring-xdit sched); COMP_CWORD=1; COMP_LINE='tokenring-xdit sched'; COMP_POINT=20\n"
        '_shtab_tokenring_xdit tokenring-xdit sched tokenring-xdit; echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "schedule\n", done.stderr
