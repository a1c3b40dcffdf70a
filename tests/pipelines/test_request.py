from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.families import ALL_FAMILIES
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.models import pipeline_named, pipelines
from tokenring_xdit.pipelines import media
from tokenring_xdit.pipelines.request import (
    Request,
    call_arguments,
    is_video,
    media_of,
    pictures_of,
    pipeline_class,
    save,
)


def test_every_value_gets_the_name_that_the_pipeline_has_for_it() -> None:
    asked = Request(
        "a fox", "blurry", 64, 32, frames=9, steps=3, seed=4, guidance=2.5, options={"max_sequence_length": 8}
    )
    arguments = call_arguments(diffusers.WanPipeline, asked)
    assert arguments.pop("generator").initial_seed() == 4
    assert arguments == {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 64,
        "height": 32,
        "num_frames": 9,
        "num_inference_steps": 3,
        "guidance_scale": 2.5,
        "max_sequence_length": 8,
        "output_type": "pil",
    }
    latte = call_arguments(diffusers.LattePipeline, Request("a fox", frames=9))
    assert latte == {"prompt": "a fox", "video_length": 9, "output_type": "pil"}


@pytest.mark.family("cosmos3")
def test_a_pipeline_that_takes_one_prompt_is_given_no_more() -> None:
    kind = diffusers.Cosmos3OmniPipeline
    assert call_arguments(kind, Request(["a fox"], frames=9))["num_frames"] == 9
    with pytest.raises(ConfigurationError, match="Cosmos3OmniPipeline takes one prompt, and 2 were given"):
        call_arguments(kind, Request(["a fox", "a boat"], frames=9))


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_which_pipelines_take_one_prompt_is_known(family: str) -> None:
    """Those of which a test gives no more than one because their call takes no more."""
    known = pipeline_named(ALL_FAMILIES[family].runs).one_prompt
    assert known == ALL_FAMILIES[family].one_prompt or family == "ltx2.5-i2v"  # which has a picture for one


@pytest.mark.parametrize("name", pipelines())
def test_which_sizes_pipelines_take_is_known(name: str) -> None:
    """Of those that name a number of pixels, whichever model they have, and do not round a size to one they take."""
    kind = getattr(diffusers, name, None)
    if kind is None:
        return
    rounds = "use_resolution_binning" in inspect.signature(kind.__call__).parameters
    source = inspect.getsource(kind.check_inputs) if hasattr(kind, "check_inputs") and not rounds else ""
    units = {int(unit) for unit in re.findall(r"height % (\d+) != 0", source)}
    assert units == ({pipeline_named(name).multiple} - {1})


def test_a_list_of_one_prompt_is_handed_over_as_the_prompt() -> None:
    """Wan VACE refuses any list."""
    arguments = call_arguments(diffusers.WanVACEPipeline, Request(["a fox"], negative_prompt=["x"]))
    assert (arguments["prompt"], arguments["negative_prompt"]) == ("a fox", "x")


def test_what_is_not_said_is_left_to_the_pipeline() -> None:
    assert call_arguments(diffusers.FluxPipeline, Request("a fox")) == {"prompt": "a fox", "output_type": "pil"}
    raw = call_arguments(diffusers.FluxPipeline, Request("a fox", options={"output_type": "latent"}))
    assert raw["output_type"] == "latent"


def test_each_picture_has_its_own_seed() -> None:
    whole = Request(("a", "b", "c"), seed=10, options={"num_images_per_prompt": 2})
    assert pictures_of(whole) == 6
    seeds = [g.initial_seed() for g in call_arguments(diffusers.FluxPipeline, whole)["generator"]]
    assert seeds == [10, 11, 12, 13, 14, 15]
    part = call_arguments(diffusers.FluxPipeline, whole.part(1, 3))
    assert part["prompt"] == ["b", "c"]
    assert [g.initial_seed() for g in part["generator"]] == [12, 13, 14, 15]


def test_a_part_takes_along_what_belongs_to_its_prompts() -> None:
    whole = Request(("a", "b", "c"), ("x", "y", "z"), options={"prompt_2": ["A", "B", "C"], "sigmas": [1.0, 0.5, 0.25]})
    part = whole.part(2, 3)
    assert (part.prompt, part.negative_prompt, part.seed) == (("c",), ("z",), None)
    assert part.options == {"prompt_2": ["C"], "sigmas": [1.0, 0.5, 0.25]}
    assert whole.part(0, 3) is whole
    assert Request(("a", "b"), "x").part(1, 2).negative_prompt == "x"


def test_one_negative_prompt_serves_several_prompts() -> None:
    asked = Request(("a", "b"), negative_prompt="x")
    guided = replace(asked, options={"true_cfg_scale": 3.0})
    assert call_arguments(diffusers.FluxPipeline, guided)["negative_prompt"] == ["x", "x"]
    assert call_arguments(diffusers.LattePipeline, asked)["negative_prompt"] == "x"  # which takes no list


@pytest.mark.parametrize(
    ("pipeline", "asked", "said"),
    [
        ("FluxPipeline", {"prompt": 3}, ["prompt is 3", "a string, or a list"]),
        ("FluxPipeline", {"prompt": ()}, ["prompt is ()"]),
        ("FluxPipeline", {"prompt": ("a", None)}, ["prompt is ('a', None)"]),
        ("FluxPipeline", {"negative_prompt": ("a", "b")}, ["negative_prompt is ('a', 'b')", "each of the 1 prompts"]),
        ("FluxPipeline", {"negative_prompt": "x"}, ["negative_prompt has no effect with true_cfg_scale=1.0: set"]),
        ("FluxPipeline", {"options": {"prompt_2": ["a", "b"]}}, ["prompt_2 is ['a', 'b']", "each of the 1 prompts"]),
        ("WanVACEPipeline", {"prompt": ("a", "b")}, ["takes one prompt, and 2 were given: make one after another"]),
        ("WanPipeline", {"width": 63, "height": 64}, ["size 63x64 is not a multiple of 16 pixels", "64x64 is"]),
        ("LTXPipeline", {"height": 70}, ["size anyx70 is not a multiple of 32 pixels", "anyx64 is"]),
        ("FluxPipeline", {"width": 0}, ["width is 0", "at least 1"]),
        ("FluxPipeline", {"height": 64.0}, ["height is 64.0", "whole number"]),
        ("FluxPipeline", {"steps": True}, ["steps is True"]),
        ("FluxPipeline", {"seed": -1}, ["seed is -1"]),
        ("FluxPipeline", {"seed": "7"}, ["seed is '7'"]),
        ("FluxPipeline", {"guidance": "high"}, ["guidance is 'high'"]),
        ("FluxPipeline", {"guidance": float("nan")}, ["guidance is nan"]),
        ("FluxPipeline", {"frames": 9}, ["FluxPipeline takes no frames", "It takes: prompt, negative_prompt, width"]),
        ("Flux2KleinPipeline", {"negative_prompt": "x"}, ["Flux2KleinPipeline takes no negative_prompt"]),
        ("FluxPipeline", {"options": {"max_sequence_lenght": 9}}, ["Did you mean 'max_sequence_length'?"]),
        ("FluxPipeline", {"options": {"stepps": 9}}, ["Did you mean 'steps'?"]),
        ("FluxPipeline", {"options": {"num_inference_steps": 9}}, ["'num_inference_steps' is called 'steps' here"]),
        ("FluxPipeline", {"options": {"callback_on_step_end": print}}, ["takes no option 'callback_on_step_end'"]),
        ("FluxPipeline", {"options": {"num_images_per_prompt": 0}}, ["num_images_per_prompt is 0"]),
        ("FluxPipeline", {"guidance": -1}, ["guidance is -1", "at least 0"]),
        ("FluxPipeline", {"guidance": float("inf")}, ["guidance is inf"]),
        ("FluxPipeline", {"guidance": True}, ["guidance is True"]),
        ("FluxPipeline", {"steps": -3}, ["steps is -3"]),
        ("FluxPipeline", {"steps": 10**9}, ["steps is 1000000000; 1000000 are the most"]),
        ("FluxPipeline", {"width": 16, "height": 100_000}, ["height is 100000 pixels, and 4096 are the most"]),
        ("FluxPipeline", {"width": 128, "largest_side": 64}, ["width is 128 pixels, and 64 are the most"]),
        ("WanPipeline", {"frames": 10**6}, ["frames is 1000000; 10000 are the most"]),
        *(
            (pipeline, {"options": {name: value}}, [f"{name} is ", said])
            for pipeline, name, value, said in (
                ("FluxPipeline", "output_type", "nope", "pil, np, pt, latent"),
                ("FluxPipeline", "output_type", None, "pil, np, pt, latent"),
                ("FluxPipeline", "output_type", ["pil"], "pil, np, pt, latent"),
                ("WanPipeline", "output_type", "mp4", "pil, np, pt, latent"),
                ("FluxPipeline", "sigmas", [float("nan")], "finite numbers"),
                ("FluxPipeline", "sigmas", [1.0, float("-inf")], "finite numbers"),
                ("FluxPipeline", "sigmas", [], "one for each step"),
                ("FluxPipeline", "sigmas", "fast", "finite numbers"),
                ("FluxPipeline", "sigmas", 0.5, "finite numbers"),
                ("FluxPipeline", "sigmas", [1.0, True], "finite numbers"),
                ("FluxPipeline", "sigmas", [-1.0], "of at least 0"),
                ("FluxPipeline", "sigmas", torch.tensor([[1.0]]), "finite numbers"),
                ("PixArtSigmaPipeline", "timesteps", ["1"], "finite numbers"),
                ("FluxPipeline", "num_images_per_prompt", True, "from 1 to 1000"),
                ("FluxPipeline", "num_images_per_prompt", "2", "from 1 to 1000"),
                ("FluxPipeline", "num_images_per_prompt", 10**6, "from 1 to 1000"),
                ("FluxPipeline", "true_cfg_scale", "high", "a finite number"),
                ("FluxPipeline", "true_cfg_scale", float("nan"), "nan"),
                ("FluxPipeline", "true_cfg_scale", True, "a finite number"),
                ("FluxPipeline", "true_cfg_scale", torch.ones(3), "a finite number"),
                ("FluxPipeline", "max_sequence_length", 24.0, "a whole number"),
                ("FluxPipeline", "max_sequence_length", True, "a whole number"),
                ("FluxPipeline", "max_sequence_length", None, "a whole number"),
                ("FluxPipeline", "joint_attention_kwargs", "scale", "a dict"),
                ("FluxPipeline", "latents", [1.0], "a tensor of floating point numbers"),
                (
                    "FluxPipeline",
                    "latents",
                    torch.ones(1, 4, 4, dtype=torch.int64),
                    "a tensor of floating point numbers",
                ),
                ("LTX2Pipeline", "frame_rate", float("inf"), "inf"),
                ("PixArtSigmaPipeline", "use_resolution_binning", "no", "True or False"),
                ("PixArtSigmaPipeline", "use_resolution_binning", 1, "True or False"),
            )
        ),
        ("FluxPipeline", {"steps": 3, "options": {"sigmas": [1.0, 0.5]}}, ["sigmas has 2 numbers", "steps is 3"]),
        ("FluxPipeline", {"options": {"latents": torch.ones(2, 64, 64)}}, ["latents has 2 rows, and 1 pictures"]),
        ("FluxPipeline", {"options": {"latents": torch.full((1, 4, 4), torch.nan)}}, ["not finite"]),
        ("FluxPipeline", {"options": {"prompt_embeds": torch.full((1, 4), torch.inf)}}, ["not finite"]),
        ("FluxPipeline", {"options": {"joint_attention_kwargs": {"scale": float("nan")}}}, ["not finite"]),
        ("FluxPipeline", {"options": 3}, ["options is 3"]),
        ("PixArtSigmaPipeline", {"options": {"kwargs": 3}}, ["takes no option 'kwargs'"]),
        ("WanImageToVideoPipeline", {}, ["WanImageToVideoPipeline needs 'image'"]),
        ("QwenImageEditPipeline", {}, ["QwenImageEditPipeline needs 'image'"]),
        ("FluxControlPipeline", {}, ["FluxControlPipeline needs 'control_image'"]),
    ],
)
def test_what_a_pipeline_does_not_take_is_refused(pipeline: str, asked: dict[str, Any], said: list[str]) -> None:
    if not hasattr(diffusers, pipeline):
        pytest.skip(f"this diffusers has no {pipeline}")
    with pytest.raises(ConfigurationError) as refusal:
        call_arguments(pipeline_class(pipeline), Request(**{"prompt": "a", **asked}))
    for words in said:
        assert words in str(refusal.value)


def test_what_a_pipeline_takes_is_let_through() -> None:
    for name, value in (
        ("sigmas", np.linspace(1, 0.25, 4)),
        ("sigmas", torch.tensor([1.0, 0.5])),
        ("sigmas", None),
        ("num_images_per_prompt", None),
        ("true_cfg_scale", 4),
        ("prompt_2", ["a"]),
        ("prompt_2", None),
        ("joint_attention_kwargs", {"scale": 0.5}),
        ("joint_attention_kwargs", None),
        ("latents", torch.zeros(1, 64, 64)),
        ("output_type", "latent"),
    ):
        assert call_arguments(diffusers.FluxPipeline, Request("a", options={name: value}))[name] is value
    for name, value in (("image", Image.new("RGB", (8, 8))), ("guidance_scale_2", 3.0)):
        asked = Request("a", options={"image": picture(1), name: value})
        assert call_arguments(diffusers.WanImageToVideoPipeline, asked)[name] is value
    asked = Request("a", width=8192, largest_side=8192)
    assert call_arguments(diffusers.FluxPipeline, asked)["width"] == 8192


def test_a_picture_that_a_pipeline_can_do_without_is_not_asked_for() -> None:
    for name in ("FluxKontextPipeline", "WanVACEPipeline"):
        if hasattr(diffusers, name):
            assert "image" not in call_arguments(pipeline_class(name), Request("a fox"))


def test_pipelines_by_name() -> None:
    assert pipeline_class("FluxPipeline") is diffusers.FluxPipeline
    with pytest.raises(UnsupportedError, match="has no pipeline NoPipeline"):
        pipeline_class("NoPipeline")
    assert [is_video(c) for c in (diffusers.WanPipeline, diffusers.LattePipeline, diffusers.FluxPipeline)] == [
        True,
        True,
        False,
    ]


def test_media_come_in_the_order_of_the_prompts() -> None:
    pictures = [picture(10), picture(20)]
    assert media_of(SimpleNamespace(images=pictures)) == pictures
    assert media_of(SimpleNamespace(frames=[pictures, pictures])) == [pictures, pictures]
    assert media_of(SimpleNamespace(video=pictures, sound=None)) == [pictures]
    first, second = media_of(SimpleNamespace(images=torch.arange(6).view(2, 3)))
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 4, 5])
    with pytest.raises(UnsupportedError, match="neither pictures nor frames"):
        media_of(SimpleNamespace(audio=1))


def test_a_picture_is_written_as_png(tmp_path: Path) -> None:
    save(picture(200), tmp_path / "p.png")
    assert np.asarray(Image.open(tmp_path / "p.png"))[0, 0].tolist() == [200, 0, 0]
    with pytest.raises(ConfigurationError, match=r"picture is written, so the name has to end in \.png"):
        save(picture(200), tmp_path / "p.mp4")


def test_a_video_is_written_as_mp4(tmp_path: Path) -> None:
    import imageio

    save([picture(40), picture(120), picture(240)], tmp_path / "v.mp4", frames_per_second=3)
    frames = imageio.mimread(tmp_path / "v.mp4")
    assert len(frames) == 3
    assert frames[0].shape == (36, 40, 3)  # not stretched to a multiple of sixteen
    assert frames[0][..., 0].mean() < frames[1][..., 0].mean() < frames[2][..., 0].mean()
    with pytest.raises(ConfigurationError, match=r"video is written, so the name has to end in \.mp4"):
        save([picture(1)], tmp_path / "v.png")


def test_writing_videos_without_imageio_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "find_spec", lambda package: None)
    with pytest.raises(ConfigurationError, match=r"without imageio: pip install 'tokenring-xdit\[video\]'"):
        save([picture(1)], tmp_path / "v.mp4")


def picture(red: int) -> Image.Image:
    return Image.new("RGB", (40, 36), (red, 0, 0))
