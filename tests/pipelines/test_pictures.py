"""Pictures in requests: what is read and sent, what is refused, and that ranks make of it what one process does."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import save_file

from tests.pipelines import picture_jobs as jobs
from tests.pipelines.picture_jobs import PROMPT, Called, coloured, filmed, halves
from tests.support import pictures
from tests.support.ranks import RankPool
from tests.support.reference import relative_error
from tests.support.small import small
from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.choice import Lora, PipelineChoice, class_for_task, refuse_scheduler
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of, refuse_choice
from tokenring_xdit.pipelines.picture_files import read_files
from tokenring_xdit.pipelines.pictures import packed_options, read_picture, unpacked_options
from tokenring_xdit.pipelines.preview import Preview
from tokenring_xdit.pipelines.random_flux import RandomFlux
from tokenring_xdit.pipelines.request import Request, call_arguments
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.run_model import files_for, inspect_model, pipeline_of
from tokenring_xdit.pipelines.run_rank import run_on_rank
from tokenring_xdit.pipelines.signatures import needed_options, takes

TOLERANCE = 1e-5

SIZED = {"width": 64, "height": 64, "steps": 4}
TEXT = dict(find_model("embedded").complete(Request("a")).options)


def written(picture: Image.Image, form: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, form, **options)
    file.seek(0)
    return file


def test_pictures_travel_as_png_in_the_colours_that_pipelines_take() -> None:
    picture = coloured(9, 7)
    options = {"image": [picture, picture.convert("L")], "mask_image": halves(8, 4).convert("RGB"), "strength": 0.5}
    packed = packed_options(options)
    assert packed["image"][0].png.startswith(b"\x89PNG")
    found = unpacked_options(packed)
    assert np.array_equal(np.asarray(found["image"][0]), np.asarray(picture))
    assert [each.mode for each in (*found["image"], found["mask_image"])] == ["RGB", "RGB", "L"]
    assert np.array_equal(np.asarray(found["mask_image"]), np.asarray(halves(8, 4)))
    assert found["strength"] == 0.5


def frames(count: int) -> io.BytesIO:
    first, *rest = [coloured(8, 8, seed) for seed in range(count)]
    return written(first, "WEBP", save_all=True, append_images=rest)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: io.BytesIO(b"GIF89a"), "image: is no picture in PNG or WEBP"),
        (lambda: written(coloured(8, 8), "JPEG"), "image: is no picture in PNG or WEBP"),
        (lambda: io.BytesIO(written(coloured(400, 300)).getvalue()[:300]), "image: the picture cannot be read"),
        (lambda: written(Image.new("1", (1001, 1000))), "the picture has 1001000 pixels, and 1000000 are the most"),
        (lambda: frames(3), "image: has 3 frames"),
    ],
)
def test_what_is_no_picture_is_refused(file: Callable[[], io.BytesIO], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_picture(file(), "image", most=1_000_000, formats=("PNG", "WEBP"))
    assert "\n" not in str(raised.value)


def test_bombs_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 100):  # of which Pillow warns, and which it refuses
        with pytest.raises(ConfigurationError, match="more than 100 pixels"):
            read_picture(written(Image.new("L", (side, side))), "image")


def test_a_picture_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(written(coloured(8, 4), "JPEG", exif=exif), "image").size == (4, 8)


def test_of_a_photograph_with_others_inside_the_first_one_is_taken() -> None:
    photograph, small_copy = coloured(64, 48), coloured(16, 12, 4)
    file = written(photograph, "MPO", save_all=True, append_images=[small_copy], quality=95)
    found = read_picture(file, "image", formats=("PNG", "JPEG", "WEBP"))
    alone = Image.open(written(photograph, "JPEG", quality=95))
    assert np.array_equal(np.asarray(found), np.asarray(alone))


@pytest.mark.parametrize(
    ("kind", "prompts", "options", "message"),
    [
        ("FluxImg2ImgPipeline", 1, {"image": "a.png"}, "image is 'a.png'; it has to be a PIL picture"),
        ("FluxImg2ImgPipeline", 1, {"image": None}, "needs 'image', which was not given"),
        ("FluxImg2ImgPipeline", 1, {"image": []}, "image is an empty list"),
        ("FluxImg2ImgPipeline", 3, {"image": [coloured(8, 8)] * 2}, "image has 2 pictures for 3 prompts"),
        ("FluxImg2ImgPipeline", 1, {"image": [coloured(8, 8)] * 65}, "64 are the most"),
        (
            "FluxImg2ImgPipeline",
            2,
            {"image": [coloured(8, 8)] * 2, "num_images_per_prompt": 2},
            "2 of each prompt are asked for",
        ),
        ("FluxImg2ImgPipeline", 1, {"image": coloured(5000, 2)}, "5000 x 2 pixels, and 4096 are the most"),
        ("FluxImg2ImgPipeline", 1, {"image": Image.new("F", (8, 8))}, "of the mode F; convert it to RGB"),
        ("FluxImg2ImgPipeline", 1, {"image": coloured(8, 8), "strength": 1.5}, "strength is 1.5; .* from 0 to 1"),
        ("FluxImg2ImgPipeline", 1, {"image": coloured(8, 8), "strength": "much"}, "strength is 'much'"),
        ("FluxImg2ImgPipeline", 1, {"image": coloured(8, 8), "strength": 0}, "28 steps leave none"),
        ("FluxImg2ImgPipeline", 1, {"image": coloured(8, 8), "mask_image": halves(8, 8)}, "no option 'mask_image'"),
        ("FluxInpaintPipeline", 1, {"image": coloured(8, 8)}, "FluxInpaintPipeline needs 'mask_image'"),
        ("FluxPipeline", 1, {"ip_adapter_image": coloured(8, 8)}, "ip_adapter_image is for IP-Adapters"),
        ("FluxControlPipeline", 1, {"image": coloured(8, 8)}, "takes no option 'image'"),
        ("WanVideoToVideoPipeline", 1, {"strength": 0.5}, "WanVideoToVideoPipeline needs 'video'"),
        ("WanVideoToVideoPipeline", 1, {"video": coloured(8, 8)}, "it has to be a list of frames"),
        ("WanVideoToVideoPipeline", 2, {"video": filmed(8, 8)}, "video is for one prompt at a time, and 2 videos"),
        ("WanVACEPipeline", 1, {"video": [coloured(8, 8), coloured(8, 9)]}, "frames of 8 x 8 and of 8 x 9 pixels"),
        ("WanVACEPipeline", 1, {"mask": [Image.new("F", (8, 8))]}, "mask is a picture of the mode F"),
        ("WanVACEPipeline", 1, {"video": filmed(8, 8)}, "video has 9 frames, and 81 are asked for: .* set frames to 9"),
        ("FluxPipeline", 1, {"prompt_embeds": torch.ones(1, 4, 4)}, "stands in the place of the prompt, and 'a' was"),
        ("FluxPipeline", 1, {"prompt_embeds": 3}, "prompt_embeds is 3; it has to be a tensor"),
    ],
)
def test_what_a_pipeline_cannot_take_is_refused(
    kind: str, prompts: int, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call_arguments(getattr(diffusers, kind), Request(("a",) * prompts, options=options))


def test_which_pictures_belong_to_a_part_of_the_prompts() -> None:
    pictures = [coloured(8, 8, seed) for seed in range(2)]
    whole = Request(("a", "b"), options={"image": pictures})
    assert whole.part(1, 2).options["image"] == pictures[1:]
    assert whole.part(1, 2, references=True).options["image"] == pictures
    if hasattr(diffusers, "Flux2Pipeline"):
        call_arguments(diffusers.Flux2Pipeline, Request("a", options={"image": pictures}))


@pytest.mark.parametrize(
    ("found", "task", "taken"),
    [
        ("FluxPipeline", None, "FluxPipeline"),
        ("FluxPipeline", "image-to-image", "FluxImg2ImgPipeline"),
        ("FluxImg2ImgPipeline", "text-to-image", "FluxPipeline"),
        ("FluxControlPipeline", "inpainting", "FluxControlInpaintPipeline"),
        ("StableDiffusion3Pipeline", "inpainting", "StableDiffusion3InpaintPipeline"),
        ("WanPipeline", "video-to-video", "WanVideoToVideoPipeline"),
        ("CogVideoXPipeline", "video-to-video", "CogVideoXVideoToVideoPipeline"),
        ("FluxControlNetPipeline", "image-to-image", "FluxControlNetImg2ImgPipeline"),
    ],
)
def test_tasks_are_those_of_auto_pipeline(found: str, task: str | None, taken: str) -> None:
    assert class_for_task(found, task) == taken


@pytest.mark.parametrize(
    ("found", "task", "taken"),
    [
        ("FluxPipeline", None, "FluxControlNetPipeline"),
        ("FluxControlNetPipeline", None, "FluxControlNetPipeline"),
        ("FluxPipeline", "inpainting", "FluxControlNetInpaintPipeline"),
        ("StableDiffusion3Pipeline", "inpainting", "StableDiffusion3ControlNetInpaintingPipeline"),
        ("QwenImagePipeline", "inpainting", "QwenImageControlNetInpaintPipeline"),
    ],
)
def test_a_controlnet_has_classes_of_its_own(found: str, task: str | None, taken: str) -> None:
    assert class_for_task(found, task, controlled=True) == taken


def test_controlnets_that_go_with_nothing_are_refused(tmp_path: Path) -> None:
    for found, task in (("FluxKontextPipeline", None), ("StableDiffusion3Pipeline", "image-to-image")):
        with pytest.raises(UnsupportedError, match=f"controlnet: diffusers has no pipeline for .*{found}"):
            class_for_task(found, task, controlled=True)
    with pytest.raises(UnsupportedError, match="it has none for any task: leave the ControlNet out"):
        class_for_task("WanPipeline", None, controlled=True)
    with pytest.raises(ConfigurationError, match="it has to be the folder or hub name of one ControlNet"):
        PipelineChoice(controlnet=("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"controlnet: .* is not a ControlNet folder: it has no config.json"):
        refuse_choice("embedded", PipelineChoice(controlnet=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "SD3ControlNetModel"}))
    with pytest.raises(ConfigurationError, match="is a SD3ControlNetModel, and FluxControlNetPipeline takes a FluxC"):
        refuse_choice("embedded", PipelineChoice(controlnet=str(tmp_path)))


def test_tasks_that_nobody_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no pipeline for inpainting with what LTXPipeline consists of"):
        class_for_task("LTXPipeline", "inpainting")
    with pytest.raises(ConfigurationError, match="task: 'edit' is not allowed"):
        PipelineChoice("edit")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(UnsupportedError, match="StableDiffusionXLImg2ImgPipeline, which has not been compared"):
        pipeline_class_of(str(tmp_path), PipelineChoice("image-to-image"))


EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize(
    ("wanted", "config", "message"),
    [
        ("FlowMatchLCMScheduler", EULER, "adds noise in each step, and FluxPipeline does not pass it the seed"),
        ("EulerAncestralDiscreteScheduler", {"_class_name": "DPMSolverMultistepScheduler"}, None),
        ("FlowMatchEulerDiscreteScheduler", EULER, None),
        ("DPMSolverMultistepScheduler", UNIPC, None),
        ("DDIMScheduler", {"_class_name": "DPMSolverMultistepScheduler"}, None),
        ("DDIMScheduler", UNIPC, "DDIMScheduler does not step as UniPCMultistepScheduler does"),
        ("UniPCMultistepScheduler", EULER, "does not step as FlowMatchEuler"),
        ("FlowMatchHeunDiscreteScheduler", EULER, "does not step as FlowMatchEuler"),
        ("FlowMatchEulerDiscreteScheduler", UNIPC, "does not step as UniPC"),
        ("EulerScheduler", EULER, "diffusers has no 'EulerScheduler'.*Did you mean"),
        ("FluxPipeline", EULER, "diffusers has no 'FluxPipeline'"),
    ],
)
def test_schedulers_that_do_not_step_as_the_models_own_are_refused(
    wanted: str, config: Mapping[str, Any], message: str | None
) -> None:
    kind = diffusers.FluxPipeline if config is EULER else diffusers.PixArtSigmaPipeline
    if message is None:
        refuse_scheduler(wanted, config, kind)
        return
    with pytest.raises(ConfigurationError, match=message):
        refuse_scheduler(wanted, config, kind)


def test_loras_are_said_in_several_ways_and_looked_for(tmp_path: Path) -> None:
    save_file({"transformer.layer.lora_A.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    save_file({}, tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:50])
    (tmp_path / "b.bin").touch()
    path = str(tmp_path / "a.safetensors")
    assert Lora.parse_all(path) == Lora.parse_all([{"path": path}]) == (Lora(path),)
    assert Lora.parse_all([(path, 0.5), {"path": path, "scale": 2}]) == (Lora(path, 0.5), Lora(path, 2.0))
    for value in (3, [3], [(path, "much")], [{"file": path}], [(path, float("nan"))]):
        with pytest.raises(ConfigurationError, match=r"is no (list of LoRAs|LoRA: it has to be the file)"):
            Lora.parse_all(value)
    refuse_choice("embedded", PipelineChoice(loras=(Lora(path), Lora("someone/a-lora"))))
    for wrong, message in (
        (str(tmp_path / "b.bin"), "is no .safetensors file"),
        (str(tmp_path / "cut.safetensors"), "cut.safetensors' cannot be read"),
        (str(tmp_path / "none.safetensors"), "has no weights in it"),
        (str(tmp_path / "no"), "there is no file or folder"),
        ("nothing.safetensors", "there is no file or folder"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            refuse_choice("embedded", PipelineChoice(loras=(Lora(wrong),)))


def mistake(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text("model: embedded\nprompt: [a, b]\n" + text)
    with pytest.raises(ConfigurationError) as raised:
        read_config(RunConfig, path, inspect=inspect_model)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: image-to-image\n", "FluxImg2ImgPipeline needs 'image'"),
        ("task: inpainting\nimage: {folder}/a.png\n", "FluxInpaintPipeline needs 'mask_image'"),
        ("task: edit\n", "task: 'edit' is not allowed"),
        ("strength: 0.5\n", "FluxPipeline takes no option 'strength'"),
        ("task: image-to-image\nimage: {folder}/a.png\nstrength: 2\n", "strength: 2"),
        ("task: image-to-image\nimage: {folder}/b.png\n", "image: is no picture"),
        ("task: image-to-image\nimage: [{folder}/a.png, {folder}/a.png, {folder}/a.png]\n", "3 files for 2 prompts"),
        (
            "task: image-to-image\nimage: {folder}/a.png\nulysses_degree: 2\n",
            "runs with diffusers as its host, and (it has no ulysses_degree=2|diffusers 0.* is the oldest)",
        ),
        ("video: {folder}/a.png\n", "video: .*a.png was given, and FluxPipeline takes none"),
        ("video: https://example.com/a.mp4\n", "is a URL, and a file is wanted"),
        ("controlnet: {folder}\n", "controlnet: .* is not a ControlNet folder"),
        ("control_image: {folder}/a.png\n", "control_image: .*a.png was given, and FluxPipeline takes none"),
        ("scheduler: Euler\n", "diffusers has no 'Euler'"),
        ("loras: [{{path: no.safetensors}}]\n", "there is no file or folder 'no.safetensors'"),
        ("loras: 3\n", "loras: 3 is no list of LoRAs"),
        ("options: {{strength: 0.5}}\n", "strength cannot be set here: say it with the key 'strength'"),
    ],
)
def test_mistakes_of_a_config_are_named(tmp_path: Path, text: str, message: str) -> None:
    coloured(8, 8).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    said = mistake(tmp_path, text.format(folder=tmp_path))
    assert re.search(message, said), said


@pytest.mark.e2e
def test_a_run_draws_what_diffusers_draws_of_files(tmp_path: Path) -> None:
    pictures = [coloured(80, 60, seed) for seed in range(2)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    halves(80, 60).save(tmp_path / "mask.png")
    text = f"""
model: embedded
task: inpainting
prompt: [a red circle, {PROMPT}]
image: [{tmp_path}/0.png, {tmp_path}/1.png]
mask_image: {tmp_path}/mask.png
strength: 0.6
size: 64
steps: 4
seed: 4
output: {tmp_path}/out.png
"""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    run_on_rank(read_config(RunConfig, path, inspect=inspect_model))
    options = {"image": pictures[1], "mask_image": halves(80, 60), "strength": 0.6, "output_type": "pil", **TEXT}
    picture = jobs.one_process(Called("FluxInpaintPipeline", "embedded", options, SIZED))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out-1.png")), np.asarray(picture))


@pytest.mark.e2e
def test_a_run_makes_of_a_video_what_diffusers_does(tmp_path: Path) -> None:
    from diffusers.utils import export_to_video, load_video

    fields = {**jobs.asked("wan-v2v"), "steps": 3}
    width, height = fields["width"], fields["height"]
    export_to_video(filmed(width, height), str(tmp_path / "in.mp4"), fps=8, macro_block_size=2)
    for number, frame in enumerate(filmed(width, height)):
        frame.save(tmp_path / f"{number}.png")
    folder = jobs.saved(tmp_path / "model", "wan-t2v")
    text = f"""
model: {folder}
task: video-to-video
prompt: {PROMPT}
video: {tmp_path}/in.mp4
strength: 0.7
size: {width}x{height}
steps: 3
guidance: {fields["guidance"]}
seed: 5
output: {tmp_path}/out.mp4
"""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    config = read_config(RunConfig, path, inspect=inspect_model)
    given = read_files(files_for(config, pipeline_of(config)))["video"]
    kept = load_video(str(tmp_path / "in.mp4"))
    assert len(given) == len(kept) == 9
    assert all(np.array_equal(np.asarray(own), np.asarray(other)) for own, other in zip(given, kept, strict=True))
    run_on_rank(config)
    options = {"video": kept, "strength": 0.7, "output_type": "pil"}
    expected = jobs.one_process(Called("WanVideoToVideoPipeline", folder, options, fields))
    found = load_video(str(tmp_path / "out.mp4"))
    export_to_video(expected, str(tmp_path / "expected.mp4"), fps=16, macro_block_size=2)
    wanted = load_video(str(tmp_path / "expected.mp4"))
    assert len(found) == len(wanted)
    assert all(np.array_equal(np.asarray(own), np.asarray(other)) for own, other in zip(found, wanted, strict=True))
    frames = [str(tmp_path / f"{number}.png") for number in range(9)]
    assert [frame.size for frame in read_files({"video": tuple(frames)})["video"]] == [(width, height)] * 9
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(ConfigurationError, match=r"video: .*no.mp4' is no video that ffmpeg reads"):
        read_files({"video": (str(tmp_path / "no.mp4"),)})


def lora_folder(folder: Path, seed: int) -> str:
    """A LoRA of the embedded model's attention, of a lively scale."""
    config = json.loads((MODEL_PATH / "transformer" / "config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    generator = torch.Generator().manual_seed(seed)
    blocks = {"transformer_blocks": config["num_layers"], "single_transformer_blocks": config["num_single_layers"]}
    layers = {
        f"transformer.{name}.{number}.attn.{layer}.lora_{side}.weight": 0.3 * torch.randn(shape, generator=generator)
        for name, count in blocks.items()
        for number in range(count)
        for layer in ("to_q", "to_k", "to_v")
        for side, shape in (("A", (2, width)), ("B", (width, 2)))
    }
    path = folder / str(seed)
    path.mkdir()
    save_file(layers, path / "pytorch_lora_weights.safetensors")
    return str(path)


needs_the_host = pytest.mark.skipif(
    Version(version("diffusers")) < Version("0.42"), reason="diffusers as the host needs 0.42"
)


@needs_the_host
@pytest.mark.ranks
def test_ranks_make_of_pictures_and_loras_what_one_process_does(ranks: RankPool, tmp_path: Path) -> None:
    loras = tuple(Lora(lora_folder(tmp_path, seed), scale) for seed, scale in ((0, 0.8), (1, -0.5)))
    start: dict[str, Any] = {"image": coloured(80, 60), "strength": 0.6, **TEXT}
    hole = {**start, "mask_image": halves(80, 60)}
    choice = PipelineChoice("image-to-image", loras=loras)
    lively = Called("FluxImg2ImgPipeline", "embedded", start, SIZED, choice)
    cases = [
        lively,
        Called("FluxInpaintPipeline", "embedded", hole, SIZED, PipelineChoice("inpainting")),
        replace(lively, swap={"image": coloured(80, 60, 4)}),
    ]
    for errors in ranks.run(2, jobs.all_of, cases, timeout=300):
        print(errors)
        assert max(errors[:2]) <= TOLERANCE
        assert errors[2] > 0.01  # another picture is seen


@needs_the_host
@pytest.mark.ranks
def test_ranks_make_of_videos_and_controlnets_what_one_process_does(ranks: RankPool, tmp_path: Path) -> None:
    flux, controlnet = jobs.controlled(tmp_path / "flux", "flux-controlnet")
    fields = jobs.asked("flux-controlnet")
    seen = {"control_image": coloured(fields["width"], fields["height"]), "controlnet_conditioning_scale": 0.7}
    options, choice = {**jobs.further("flux-controlnet"), **seen}, PipelineChoice(controlnet=controlnet)
    steered = Called("FluxControlNetPipeline", flux, options, fields, choice)
    wan, film = jobs.saved(tmp_path / "wan", "wan-t2v"), jobs.asked("wan-v2v")
    moving = {"video": filmed(film["width"], film["height"]), "strength": 0.6}
    filming = Called("WanVideoToVideoPipeline", wan, moving, film, PipelineChoice("video-to-video"))
    config = json.loads((Path(flux) / "transformer" / "config.json").read_text())
    generator = torch.Generator().manual_seed(3)
    encoded = {  # as Redux does
        "prompt_embeds": torch.randn(1, 13, config["joint_attention_dim"], generator=generator),
        "pooled_prompt_embeds": torch.randn(1, config["pooled_projection_dim"], generator=generator),
    }
    cases = [
        steered,
        filming,
        Called("FluxPipeline", flux, {**jobs.further("flux"), **encoded}, jobs.asked("flux")),
        replace(steered, swap={"control_image": coloured(fields["width"], fields["height"], 4)}),
        replace(filming, swap={"video": moving["video"][::-1]}),
    ]
    for errors in ranks.run(2, jobs.all_of, cases, timeout=300):
        print(errors)
        assert max(errors[:3]) <= TOLERANCE
        assert min(errors[3:]) > 100 * TOLERANCE  # what controls, and the order of frames, is seen


def test_loras_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    """Which diffusers says in its log alone."""
    pipe = RandomFlux(double=1, single=1, heads=1, head_dim=16).make(torch.float32, torch.device("cpu"))
    wide = Lora(lora_folder(tmp_path, 0))
    with pytest.raises(ConfigurationError, match=r"does not fit FluxPipeline: .*size mismatch"):
        PipelineChoice(loras=(wide,)).put_on(pipe)
    save_file({"unet.layer.lora_A.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    pipe = RandomFlux(double=1, single=1, heads=1, head_dim=16).make(torch.float32, torch.device("cpu"))
    with pytest.raises(ConfigurationError, match=r"has nothing for the layers of FluxPipeline|does not fit"):
        PipelineChoice(loras=(Lora(str(tmp_path / "other.safetensors")),)).put_on(pipe)


def edited(given: dict[str, Any]) -> dict[str, Any]:
    """What an edit of Qwen-Image is given: embeddings, in which its encoder would have put the pictures too."""
    return {name: value for name, value in given.items() if value is not None}


PICTURED: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "flux-fill": lambda w, h: {"image": coloured(w, h), "mask_image": halves(w, h)},
    "flux-kontext": lambda w, h: {"image": coloured(w, h), "max_area": w * h, "_auto_resize": False},
    "flux-control": lambda w, h: {"control_image": coloured(w, h)},
    "flux-control-img2img": lambda w, h: {"image": coloured(w, h), "control_image": coloured(w, h, 4), "strength": 0.6},
    "flux-controlnet": lambda w, h: {"control_image": coloured(w, h)},
    "flux2-edit": lambda w, h: {"image": [coloured(72, 64), coloured(64, 84, 4)]},
    "qwen-image-edit": lambda w, h: edited(pictures.qwen_edit(h, w)),
    "qwen-image-edit-inpaint": lambda w, h: edited(pictures.qwen_edit_hole(h, w)),
    "qwen-image-edit-plus": lambda w, h: edited(pictures.qwen_edit_two(h, w)),
    "sd3-inpaint": lambda w, h: {"image": coloured(w, h), "mask_image": halves(w, h), "strength": 0.6},
    "qwen-image-inpaint": lambda w, h: {"image": coloured(w, h), "mask_image": halves(w, h), "strength": 0.6},
    "z-image-img2img": lambda w, h: {"image": coloured(w, h), "strength": 0.6},
    "chroma-img2img": lambda w, h: {"image": coloured(w, h), "strength": 0.6},
    "ltx-i2v": lambda w, h: {"image": coloured(w, h)},
    "cogvideox-i2v": lambda w, h: {"image": coloured(w, h)},
    "cogvideox-v2v": lambda w, h: {"video": filmed(w, h), "strength": 0.6},
    "wan-flf2v": lambda w, h: {"image": coloured(w, h), "last_image": coloured(w, h, 4)},
    "wan-vace": lambda w, h: {
        "video": filmed(w, h),
        "mask": [halves(w, h)] * 9,
        "reference_images": [coloured(48, 80), coloured(64, 32, 4)],
    },
    **dict.fromkeys(("chroma", "ltx", "aura-flow", "cogview4", "skyreels-v2", "mochi"), lambda w, h: {}),
}
"""Small pipelines, and their pictures by width and height."""


def test_kontext_makes_the_size_that_was_asked_for(tmp_path: Path) -> None:
    model, dims = find_model(jobs.saved(tmp_path, "flux-kontext")), ParallelDims(tokenring=2)
    assert model.complete(Request("a fox")).options == {"max_area": 1024 * 1024}
    assert model.complete(Request("a fox", options={"max_area": 64})) == Request("a fox", options={"max_area": 64})
    request = model.complete(Request(PROMPT, width=96, height=32, steps=2, options={"max_sequence_length": 8}))
    model.check_request(dims, request)
    with pytest.raises(ConfigurationError, match="max_area is 9, and a picture of 96x32 has 3072 pixels"):
        model.check_request(dims, replace(request, options={"max_area": 9}))
    pipe, shown = small("flux-kontext").make(), list[Any]()
    preview = Preview(pipe)
    for area in (96 * 32, 64 * 64):
        arguments = call_arguments(diffusers.FluxKontextPipeline, request) | {"max_area": area}
        made = pipe(**arguments, **preview.arguments(arguments)).images[0]
        assert (made.size == (96, 32)) == (area == 96 * 32)
        shown.append(preview.draw())
        preview.forget()
    assert [None if each is None else each.size for each in shown] == [(96, 32), None]


@needs_the_host
@pytest.mark.matrix
@pytest.mark.parametrize("key", PICTURED)
def test_other_pipelines_of_pictures(ranks: RankPool, tmp_path: Path, key: str) -> None:
    folder, fields = jobs.saved(tmp_path, key), jobs.asked(key)
    options = {**jobs.further(key), **PICTURED[key](fields["width"], fields["height"])}
    first, second = ranks.run(2, jobs.all_of, [Called(small(key).runs, folder, options, fields)], timeout=300)
    print(first, second)
    assert max(*first, *second) <= TOLERANCE


CONTROLLED = {
    "flux-controlnet": None,
    "flux-controlnet-img2img": "image-to-image",
    "flux-controlnet-inpaint": "inpainting",
    "sd3-controlnet": None,
    "sd3-controlnet-inpaint": "inpainting",
    "qwen-image-controlnet": None,
    "qwen-image-controlnet-inpaint": "inpainting",
    "z-image-controlnet": None,
    "z-image-controlnet-inpaint": "inpainting",
}
"""Small pipelines with ControlNets, and the tasks that bring them out."""


@needs_the_host
@pytest.mark.matrix
@pytest.mark.parametrize("key", CONTROLLED)
def test_controlnets_beside_a_model(ranks: RankPool, tmp_path: Path, key: str) -> None:
    folder, controlnet = jobs.controlled(tmp_path, key)
    fields, kind = jobs.asked(key), small(key).runs
    width, height = fields["width"], fields["height"]
    options: dict[str, Any] = {**jobs.further(key), "control_image": coloured(width, height)}
    task = CONTROLLED[key]
    if "mask_image" in needed_options(getattr(diffusers, kind)):
        options |= {"mask_image": halves(width, height)}
    if "control_mask" in needed_options(getattr(diffusers, kind)):
        options |= {"control_mask": halves(width, height)}
    if "image" in needed_options(getattr(diffusers, kind)):
        options |= {"image": coloured(width, height, 4)}
    if takes(getattr(diffusers, kind), "strength"):
        options |= {"strength": 0.6}
    case = Called(kind, folder, options, fields, PipelineChoice(task, controlnet=controlnet))
    first, second = ranks.run(2, jobs.all_of, [case], timeout=300)
    print(first, second)
    assert max(*first, *second) <= TOLERANCE


@pytest.mark.matrix
def test_another_scheduler(ranks: RankPool, tmp_path: Path) -> None:
    """One that draws noise in each step."""
    name = "EulerAncestralDiscreteScheduler"
    folder, fields = jobs.saved(tmp_path, "pixart-sigma"), jobs.asked("pixart-sigma")
    choice = PipelineChoice(scheduler=name)
    refuse_choice(folder, choice)
    options = {**jobs.further("pixart-sigma"), "use_resolution_binning": False}
    case = Called("PixArtSigmaPipeline", folder, options, fields, choice)
    assert relative_error(jobs.one_process(case), jobs.one_process(replace(case, choice=PipelineChoice()))) > 0.01
    for errors in ranks.run(2, jobs.all_of, [case], timeout=300):
        assert max(errors) <= TOLERANCE
