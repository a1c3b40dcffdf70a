"""Pictures of what a pipeline is about to make, before it is finished."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.pipelines.flux import decoded, has_size, unpacked
from tokenring_xdit.sizes import PictureSize

__all__ = ["Preview"]


class Preview:
    """Looks at a pipeline's latents after each step and decodes the first picture among them.

    Under flow matching the picture is where the last two steps point to; elsewhere, and after the first step, it is
    what the latents hold, noise included. Pipelines whose latents are no picture's (videos), or that do not pass
    them on, have no previews; those have them whose latents are packed, or ``[B, C, H, W]``, beside a plain
    ``AutoencoderKL``.

    Args:
        pipe: The diffusers pipeline, before it is made parallel.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        parameters = inspect.signature(type(pipe).__call__).parameters
        self._possible = "callback_on_step_end" in parameters and type(pipe.vae).__name__ == "AutoencoderKL"
        self._packed = pipeline_named(type(pipe).__name__).packed
        self._size = PictureSize(0, 0)
        self.forget()

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments of a call that is to be looked at.

        Args:
            arguments: The others.
        """
        if not self._possible:
            return {}
        if self._packed:
            side = self._pipe.default_sample_size * self._pipe.vae_scale_factor
            self._size = PictureSize(arguments.get("width") or side, arguments.get("height") or side)
        return {"callback_on_step_end": self._look}

    @torch.no_grad()
    def draw(self) -> Image.Image | None:
        """The picture, if there can be one."""
        latents = self._expected()
        if latents is None or (latents.ndim != 4 and not self._packed):
            return None
        if self._packed and not has_size(self._pipe, latents, self._size):
            return None  # the pipeline has chosen another size
        if self._packed:
            latents = unpacked(self._pipe, latents, self._size)
        picture: Image.Image = decoded(self._pipe, latents, "pil")[0]
        return picture

    def forget(self) -> None:
        """Let go of the latents."""
        self._latents: Tensor | None = None
        self._before: Tensor | None = None

    def _look(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._before, self._latents = self._latents, tensors["latents"][:1].clone()
        return {}

    def _expected(self) -> Tensor | None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = self._pipe.scheduler
        if self._latents is None or self._before is None or not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return self._latents
        sigma, before = scheduler.sigmas[scheduler.step_index], scheduler.sigmas[scheduler.step_index - 1]
        velocity = (self._latents.float() - self._before.float()) / (sigma - before)
        expected: Tensor = (self._latents.float() - sigma * velocity).to(self._latents.dtype)
        return expected
