"""Flux on the ranks of one command: the unmodified pipeline, and xfuser's."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.pipelines.jobs import Drawn, Picture

__all__ = ["Generation", "decode", "generate", "load_flux", "share_latents"]


@dataclass(frozen=True)
class Generation:
    """The outcome of one generation.

    Attributes:
        latents: Packed latents ``[1, S, C]``; ``None`` on ranks that xfuser gives none.
        step_ms: Milliseconds of each denoising step but the first, which pays for warm-up.
    """

    latents: Tensor | None
    step_ms: tuple[float, ...]


def load_flux(picture: Picture, device: torch.device) -> Any:
    """The unmodified diffusers pipeline."""
    from diffusers import FluxPipeline

    from tokenring_xdit.compat.diffusers import from_pretrained

    pipe = from_pretrained(FluxPipeline, picture.model, torch_dtype(picture.dtype))
    return pipe.to(device)


@torch.no_grad()
def generate(pipe: Any, picture: Picture, *, progress: bool = False) -> Generation:
    """Generate latents.

    Args:
        pipe: The unmodified pipeline, on this rank alone, or a ``ShardedPipeline``, on all of them.
        picture: What to draw.
        progress: Whether this rank shows a progress bar.
    """
    pipe.set_progress_bar_config(disable=not progress, desc="denoising", leave=False)
    ends: list[float] = []

    def note_time(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return tensors

    output = pipe(
        prompt=picture.prompt,
        width=picture.size.width,
        height=picture.size.height,
        num_inference_steps=picture.steps,
        guidance_scale=picture.guidance,
        max_sequence_length=picture.text_tokens,
        # Noise is drawn on the CPU, so that every machine and every number of ranks draws the same.
        generator=torch.Generator("cpu").manual_seed(picture.seed),
        output_type="latent",
        callback_on_step_end=note_time,
    )
    steps = tuple((end - start) * 1000 for start, end in itertools.pairwise(ends))
    return Generation(None if output is None else output.images, steps)


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, picture: Picture) -> Drawn:
    """Turn packed latents into a picture, as ``FluxPipeline.__call__`` does at its end."""
    unpacked = pipe._unpack_latents(latents, picture.size.height, picture.size.width, pipe.vae_scale_factor)
    scaled = unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    image = pipe.vae.decode(scaled, return_dict=False)[0]
    return Drawn(pipe.image_processor.postprocess(image, output_type="np")[0])


def share_latents(latents: Tensor | None, like: Tensor) -> Tensor:
    """Give every rank the latents that xfuser returns on the last rank only.

    Args:
        latents: The latents on the last rank; ignored elsewhere.
        like: A tensor of their shape and dtype.
    """
    source = dist.get_world_size() - 1
    shared = latents if latents is not None else torch.empty_like(like)
    dist.broadcast(shared, source)
    return shared
