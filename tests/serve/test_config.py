"""What a server is told on the command line and in a config."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import diffusers
import pytest

from tokenring_xdit.cli import serve
from tokenring_xdit.cli.commands import whole_parser
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.models import pipeline_named, pipelines
from tokenring_xdit.pipelines.request import is_video, needs_picture
from tokenring_xdit.pipelines.signatures import needed_options
from tokenring_xdit.serve.config import (
    RequestLimits,
    ServeConfig,
    TextServeConfig,
    mask_keyword,
    serve_schema,
    unserved,
)


def said(*words: str) -> argparse.Namespace:
    return whole_parser().parse_args(["serve", *words])


def test_a_config_of_a_run_is_one_of_a_server_and_needs_no_prompt(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: embedded\nprompt: a fox\noutput: fox.png\nsize: 64\ntokenring_degree: 2\n")
    config = read_config(ServeConfig, file, [], unserved)
    assert config.degrees.ranks == 2
    assert config.ignored == ["prompt", "output"]
    assert read_config(ServeConfig, None, ["model=embedded"], unserved).ignored == []


def test_of_a_folder_clients_hear_its_last_name(tmp_path: Path) -> None:
    assert read_config(ServeConfig, None, [f"model={tmp_path}"]).name == tmp_path.name
    assert read_config(ServeConfig, None, ["model=black-forest-labs/FLUX.1-dev"]).name == "black-forest-labs/FLUX.1-dev"


def test_here_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(ServeConfig, None, ["model=."]).name == tmp_path.name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("options={stepz: 1}", "FluxPipeline takes no option 'stepz'"),
        ("size=5000", "width is 5000 pixels"),
        ("warm_up=[5000]", "width is 5000 pixels"),
        ("memory_per_rank=much", "memory_per_rank: .*is not an amount of memory"),
        ("memory_per_rank=0", "memory_per_rank: 0 is not allowed"),
        ("image=https://example.com/a.png", None),
    ],
)
def test_what_every_request_would_be_refused_for_is_said_at_once(value: str, message: str | None) -> None:
    if message is None:
        assert read_config(ServeConfig, None, ["model=embedded", value], unserved).ignored == ["image"]
        return
    with pytest.raises(ConfigurationError, match=message):
        read_config(ServeConfig, None, ["model=embedded", value], unserved)


NEEDS_NONE = {"Flux2KleinPipeline", "Flux2Pipeline", "FluxKontextPipeline"}
"""Pipelines that take a picture and need none."""

FILMS = {
    "ChronoEditPipeline",
    "CogVideoXImageToVideoPipeline",
    "HunyuanSkyreelsImageToVideoPipeline",
    "HunyuanVideo15ImageToVideoPipeline",
    "HunyuanVideoImageToVideoPipeline",
    "LTX2ImageToVideoPipeline",
    "LTXImageToVideoPipeline",
    "WanImageToVideoPipeline",
}


def test_which_models_make_nothing_without_a_picture() -> None:
    """As their names tell, except those that take one and need none."""
    classes = [getattr(diffusers, name) for name in pipelines() if hasattr(diffusers, name)]
    found = {each.__name__ for each in classes if needs_picture(each)}
    named = {name for name in pipelines() if re.search("Img2Img|Inpaint|Fill|Control|Edit|ImageToVideo", name)}
    assert found == {name for name in named - NEEDS_NONE if hasattr(diffusers, name)}
    assert {each.__name__ for each in classes if is_video(each)} & found == {n for n in FILMS if hasattr(diffusers, n)}
    masks = {each.__name__ for each in classes if mask_keyword(each) in needed_options(each)}
    assert masks == {name for name in found if "Inpaint" in name or "Fill" in name}
    assert pipeline_named("xFuserQwenImageEditPipeline").needs_picture


@pytest.mark.parametrize("name", sorted(FILMS))
def test_a_video_that_starts_from_a_picture_is_not_served(tmp_path: Path, name: str) -> None:
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ConfigurationError, match=f"{name} starts from a picture, and requests bring none here"):
        read_config(ServeConfig, None, [f"model={tmp_path}"], unserved)


def test_what_needs_a_picture_beside_the_one_that_is_sent_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxControlImg2ImgPipeline"}))
    with pytest.raises(ConfigurationError, match="needs control_image, which requests do not bring here"):
        read_config(ServeConfig, None, [f"model={tmp_path}"], unserved)
    for task in ("image-to-image", "inpainting"):
        assert read_config(ServeConfig, None, ["model=embedded", f"task={task}"], unserved).choice.task == task


def test_a_language_model_is_known_by_its_name_and_has_options_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    model = f"model={tmp_path}"
    config = read_config(serve_schema, None, [model, "options={temperature: 0.5}", "context=x"], unserved)
    assert isinstance(config, TextServeConfig)
    assert (config.name, config.options, config.ignored) == (tmp_path.name, {"temperature": 0.5}, ["context"])
    for value, message in (("steps=3", "steps: there is no such key"), ("options={top_p: 2}", "top_p is 2")):
        with pytest.raises(ConfigurationError, match=message):
            read_config(serve_schema, None, [model, value], unserved)
    with pytest.raises(ConfigurationError, match="it is a language model: write task: text"):
        read_config(serve_schema, None, [model, "task=picture"], unserved)
    with pytest.raises(ConfigurationError, match="task: 'film' is not allowed"):
        read_config(serve_schema, None, [model, "task=film"], unserved)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embedded", "--max-pixels", "0"], "--max-pixels is 0"),
        (["embedded", "--grace", "nan"], "--grace is nan"),
        (["embedded", "--grace", "inf"], "--grace is inf"),
        (["embedded", "--api-key", " "], "the API key is empty"),
        (["embedded", "other"], "a server has one config or model"),
        (["embedded", "stepz=3"], "stepz: there is no such key"),
        (["missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes_are_said_before_anything_loads(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_PACKAGES", ())
    with pytest.raises(ConfigurationError, match=message):
        serve.serve_command(said(*words))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(ConfigurationError, match=r"serve needs no_such_package: pip install 'tokenring-xdit\[serve\]'"):
        serve.serve_command(said())


def test_help_says_the_limits_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        said("--help")
    text = " ".join(capsys.readouterr().out.split())
    for name in ("waiting", "pixels", "frames", "steps", "stored", "body"):
        assert f"--max-{name}" in text
        assert f"(default: {getattr(RequestLimits, name)})" in text
