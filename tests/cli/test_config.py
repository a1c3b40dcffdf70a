from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenring_xdit.cli import main

ROOT = Path(__file__).parents[2]
EMBEDDED = str(ROOT / "configs" / "embedded.yaml")


def test_an_override_may_be_longer_than_names_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("prompt=" + "a red circle left of a blue square, " * 20, "prompt=" + "a/" * 5000):
        assert main(["config", "check", EMBEDDED, prompt]) == 0
        assert capsys.readouterr().out == f"{EMBEDDED}: fine\n"
    assert main(["config", "check", "prompt=" + "a" * 5000]) == 2
    assert len(capsys.readouterr().err) < 1000


def test_a_file_with_an_equals_sign_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a=b.yaml"
    path.write_text("model: embedded\nprompt: a")
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: fine\n"


def test_values_of_every_kind_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: embedded\nprompt: a\noptions: {a: &a [{b: 2024-01-01}], c: *a, d: 1.5}")
    assert main(["config", "show", str(path), "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert options == {"a": [{"b": "2024-01-01"}], "c": [{"b": "2024-01-01"}], "d": 1.5}
    path.write_text("model: embedded\nprompt: a\noptions: " + "{a: " * 300 + "1" + "}" * 300)
    for form in ([], ["--json"]):
        assert main(["config", "show", str(path), *form]) == 2
        assert "is nested too deeply" in capsys.readouterr().err


def test_configs_of_the_package_are_listed_and_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["config", "list", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    files = (ROOT / "configs").rglob("*.yaml")
    assert sorted(names) == sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in files)
    monkeypatch.chdir(tmp_path)
    assert main(["config", "copy", "flux-tokenring-8gpu"]) == 0
    assert capsys.readouterr().out == "flux-tokenring-8gpu.yaml\nflux-tokenring.yaml\n"
    assert main(["config", "show", "flux-tokenring-8gpu.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokenring_degree"] == 4
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        assert main(["config", "copy", name, "--to", str(tmp_path / name)]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flux-tokenring-9gpu"], "there is no config 'flux-tokenring-9gpu'"),
        (["embedded", "--to", "nowhere"], "there is no folder 'nowhere'"),
        (["embedded.yaml"], "'embedded.yaml' is there"),
    ],
)
def test_copies_that_cannot_be_made(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded.yaml").write_text("mine")
    assert main(["config", "copy", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["embedded.yaml"]
    assert (tmp_path / "embedded.yaml").read_text() == "mine"
