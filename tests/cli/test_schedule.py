from __future__ import annotations

import json

import pytest

from tokenring_xdit.cli import main


@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_show(capsys: pytest.CaptureFixture[str], ranks: int) -> None:
    assert main(["schedule", "show", "token_ring", "--ranks", str(ranks)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"token_ring, {ranks} ranks, full mask\n")
    assert f"each rank sends: {ranks - 1} Q, {ranks - 1} O (blocks)" in out
    assert out.count("attends ") == ranks * ranks


def test_show_causal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "show", "ring", "--ranks", "2", "--causal", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["mask"], len(plan["programs"])) == ("causal", 2)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ring", "token_ring"]
    assert "TokenRing as published" in lines[1]
    assert main(["schedule", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["ring", "token_ring"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token-ring", "--ranks", "4"], "Did you mean 'token_ring'?"),
        (["ring", "--ranks", "0"], "at least one rank"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["schedule", "show", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate"], ["compare"], ["schedule", "show"], ["schedule", "list"], []])
def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    assert "example: tokenring-xdit" in capsys.readouterr().out
