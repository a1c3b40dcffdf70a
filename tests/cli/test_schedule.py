from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.schedules import OWN_MASKS
from tokenring_xdit.cli import main
from tokenring_xdit.schedule import ALGORITHMS, Mask


@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_show(capsys: pytest.CaptureFixture[str], ranks: int) -> None:
    assert main(["schedule", "show", "token_ring", "--ranks", str(ranks)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"token_ring, {ranks} ranks, full mask\n")
    assert f"each rank sends: {ranks - 1} Q, {ranks - 1} O (blocks)" in out
    assert out.count("attends ") == ranks * ranks


@pytest.mark.parametrize(
    ("name", "mask"), [*OWN_MASKS, ("direct:chunks=4", Mask.FULL), ("hierarchical:nodes=2,inside=direct", Mask.FULL)]
)
def test_show_works_for_every_schedule(capsys: pytest.CaptureFixture[str], name: str, mask: Mask) -> None:
    assert main(["schedule", "show", name, "--ranks", "4", *["--causal"] * (mask is Mask.CAUSAL)]) == 0
    assert capsys.readouterr().out.startswith(f"{name.replace('nodes=2,', '')}, 4 ranks")


def test_show_counts_heads(capsys: pytest.CaptureFixture[str]) -> None:
    for heads, cut in (("8", True), ("5", False)):
        assert main(["schedule", "show", "bidirectional", "--ranks", "4", "--heads", heads]) == 0
        assert ("heads 1/2" in capsys.readouterr().out) is cut


def test_show_causal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "show", "ring", "--ranks", "2", "--causal", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["mask"], len(plan["programs"])) == ("causal", 2)


def test_draw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["schedule", "draw", "bidirectional", "--ranks", "3", "--causal"]
    picture = tmp_path / "pictures" / "one.svg"
    assert main([*arguments, "--output", str(picture)]) == 0
    assert capsys.readouterr().out == f"picture: {picture}\n"
    assert main(arguments) == 0
    assert capsys.readouterr().out == picture.read_text()
    shown = ET.parse(picture).getroot().attrib
    assert (shown["data-schedule"], shown["data-ranks"], shown["data-mask"]) == ("bidirectional", "3", "causal")
    assert "heads 1/2" in picture.read_text()
    assert main([*arguments, "--heads", "5"]) == 0
    assert "heads 1/2" not in capsys.readouterr().out


def test_draw_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["schedule", "draw", "ring", "--ranks", "17"]) == 2
    assert "a picture has room for 16 ranks, not for 17" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["schedule", "draw", "ring", "--ranks", "2", "--output", str(tmp_path / "file" / "one.svg")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == sorted(ALGORITHMS)
    assert "TokenRing as published" in lines[names.index("token_ring")]
    assert lines[names.index("mesh")].endswith("[rows=auto,chunks=1,wide=1]")
    assert main(["schedule", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token-ring", "--ranks", "4"], "Did you mean 'token_ring'?"),
        (["ring", "--ranks", "0"], "at least one rank"),
        (["direct:chunk=4", "--ranks", "4"], "Did you mean 'chunks'?"),
        (["hierarchical", "--ranks", "5"], "works for multiples of 2 ranks, not for 5"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["schedule", "show", *arguments]) == 2
    assert message in capsys.readouterr().err
