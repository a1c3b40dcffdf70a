"""What the worker ranks do: pipelines with pictures, as engines and runs make them, beside one process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from tests.support.reference import relative_error
from tests.support.small import peaky, small
from tokenring_xdit.hosts.parallelize import engine_host, parallelize
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.loading import find_model, load_pipeline
from tokenring_xdit.pipelines.request import Request, call_arguments, packed, unpacked

__all__ = ["Called", "all_of", "asked", "coloured", "further", "halves", "saved"]

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


@dataclass(frozen=True)
class Called:
    """A pipeline that is called once.

    Attributes:
        model: Folder of it.
        options: Of its call, beside the fields of a request.
        fields: Of the request.
        choice: What is made of the model.
        swap: Options that the ranks get in the place of these: a deliberate fault.
    """

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


def asked(key: str) -> dict[str, Any]:
    """Fields of a request for a small pipeline."""
    given = small(key).inputs()
    names = {"num_frames": "frames", "num_inference_steps": "steps", "guidance_scale": "guidance"}
    return {names.get(name, name): value for name, value in given.items() if name in {"height", "width", *names}}


def further(key: str) -> dict[str, Any]:
    """Options of its call that are no pictures and that its family needs."""
    given = small(key).inputs()
    return {name: given[name] for name in ("max_sequence_length", "controlnet_conditioning_scale") if name in given}


@torch.no_grad()
def difference(case: Called, expected: Tensor) -> float:
    """To what one process of unmodified diffusers made, relative to its scale."""
    pipe = load_pipeline(case.model, "float32", CPU, case.choice)
    pipe.set_progress_bar_config(disable=True)
    kind = type(pipe)
    request = find_model(case.model, case.choice.task).complete(
        Request(PROMPT, seed=5, options={"output_type": "latent", **case.options, **case.swap}, **case.fields)
    )
    arguments = call_arguments(kind, unpacked(packed(request)))
    ranks = dist.get_world_size()
    parallelize(pipe, host=engine_host(kind.__name__), tokenring_degree=ranks)
    output = pipe(**arguments)
    return relative_error(getattr(output, "images", getattr(output, "frames", None))[0], expected)


def all_of(cases: list[tuple[Called, Tensor]]) -> list[float]:
    """:func:`difference` of several."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return [difference(case, expected) for case, expected in cases]
