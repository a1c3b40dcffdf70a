"""What the worker ranks do: pipelines with pictures, as engines and runs make them, beside one process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from tests.support.families.qwen_image import start_from_small_pictures
from tests.support.ranks import by_the_first
from tests.support.reference import relative_error
from tests.support.small import peaky, small
from tokenring_xdit.hosts.parallelize import engine_host, parallelize
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.loading import find_model, load_pipeline
from tokenring_xdit.pipelines.request import Request, call_arguments, packed, unpacked

__all__ = [
    "Called",
    "all_of",
    "asked",
    "coloured",
    "controlled",
    "filmed",
    "further",
    "halves",
    "one_process",
    "saved",
]

PROMPT = "a red cube beside two blue balls"
CPU = torch.device("cpu")


def coloured(width: int, height: int, seed: int = 3) -> Image.Image:
    """A picture of noise in blocks."""
    drawn = np.random.default_rng(seed).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST)


def halves(width: int, height: int) -> Image.Image:
    """A mask, of which the right half is white."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def filmed(width: int, height: int, frames: int = 9) -> list[Image.Image]:
    """Frames that turn."""
    return [coloured(width, height).rotate(5 * number) for number in range(frames)]


@dataclass(frozen=True)
class Called:
    """A pipeline that is called once.

    Attributes:
        runs: Its class.
        model: Folder of it, or ``embedded``.
        options: Of its call, beside the fields of a request.
        fields: Of the request.
        choice: What is made of the model.
        swap: Options that the ranks get in the place of these: a deliberate fault.
    """

    runs: str
    model: str
    options: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)
    choice: PipelineChoice = field(default_factory=PipelineChoice)
    swap: Mapping[str, Any] = field(default_factory=dict)


def saved(folder: Path, key: str) -> str:
    """The folder of a small pipeline, with attention that is far from uniform."""
    pipe = peaky(key)
    pipe.save_pretrained(folder)
    return str(folder)


def controlled(folder: Path, key: str) -> tuple[str, str]:
    """The folder of a small pipeline without its ControlNet, and that of its ControlNet."""
    pipe = peaky(key)
    pipe.controlnet.save_pretrained(folder / "controlnet")
    base = peaky(small(key).family)
    base.save_pretrained(folder / "base")
    return str(folder / "base"), str(folder / "controlnet")


USUAL = {"steps": "num_inference_steps", "frames": "num_frames", "guidance": "guidance_scale"}


def asked(key: str) -> dict[str, Any]:
    """Fields of a request for a small pipeline."""
    given = small(key).inputs()
    names = {usual: name for name, usual in USUAL.items()}
    return {names.get(name, name): given[name] for name in ("height", "width", *names) if name in given}


_FURTHER = ("max_sequence_length", "controlnet_conditioning_scale", "text_encoder_out_layers")


def further(key: str) -> dict[str, Any]:
    """Options of its call that are no pictures and that its family needs."""
    given = small(key).inputs()
    return {name: given[name] for name in _FURTHER if name in given}


def one_process(case: Called) -> Any:
    """What unmodified diffusers makes, called as its users call it."""
    parts = {}
    if case.choice.controlnet is not None:
        kind = json.loads((Path(case.choice.controlnet) / "config.json").read_text())["_class_name"]
        parts["controlnet"] = getattr(diffusers, kind).from_pretrained(case.choice.controlnet)
    place = MODEL_PATH if case.model == "embedded" else case.model
    pipe = getattr(diffusers, case.runs).from_pretrained(place, **parts)
    pipe.set_progress_bar_config(disable=True)
    if case.choice.scheduler is not None:
        pipe.scheduler = getattr(diffusers, case.choice.scheduler).from_config(pipe.scheduler.config)
    for number, lora in enumerate(case.choice.loras):
        pipe.load_lora_weights(lora.path, adapter_name=f"of_{number}")
    if case.choice.loras:
        names = [f"of_{number}" for number in range(len(case.choice.loras))]
        pipe.set_adapters(names, [lora.scale for lora in case.choice.loras])
    call = {USUAL.get(name, name): value for name, value in case.fields.items()}
    given = {"output_type": "latent", **call, **case.options}
    prompt = None if "prompt_embeds" in given else PROMPT
    torch.manual_seed(7)  # some pipelines draw a part of their noise without the generator
    output = pipe(prompt=prompt, generator=torch.Generator().manual_seed(5), **given)
    return getattr(output, "images", getattr(output, "frames", None))[0]


@torch.no_grad()
def difference(case: Called) -> float:
    """To what one process of unmodified diffusers makes, relative to its scale."""
    expected = by_the_first(lambda: one_process(case))
    pipe = load_pipeline(case.model, "float32", CPU, case.choice)
    pipe.set_progress_bar_config(disable=True)
    kind = type(pipe)
    assert kind.__name__ == case.runs
    options = {"output_type": "latent", **case.options, **case.swap}
    request = find_model(case.model, case.choice).complete(
        Request("" if "prompt_embeds" in options else PROMPT, seed=5, options=options, **case.fields)
    )
    arguments = call_arguments(kind, unpacked(packed(request)))
    parallelize(pipe, host=engine_host(kind.__name__), tokenring_degree=dist.get_world_size())
    torch.manual_seed(7)
    output = pipe(**arguments)
    return relative_error(getattr(output, "images", getattr(output, "frames", None))[0], expected)


def all_of(cases: list[Called]) -> list[float]:
    """:func:`difference` of several; what Qwen-Image edits is scaled to few pixels in place of a million."""
    start_from_small_pictures()
    return [difference(case) for case in cases]
