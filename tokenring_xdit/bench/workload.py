"""A denoising step of a Flux pipeline as a problem of a sweep, and what is known of its model beforehand."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from tokenring_xdit.bench.plan import CallShape, Level, Strategy, StrategyKind
from tokenring_xdit.errors import TokenRingError, UnsupportedError
from tokenring_xdit.hosts.diffusers.own import refusal_of_own
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.flux import FluxModel
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of
from tokenring_xdit.sizes import PictureSize

__all__ = ["GUIDANCE", "PROMPT", "WorkloadShape", "flux_model"]


PROMPT = "a red circle left of a blue square"
"""The default prompt, in words that the embedded model knows too."""

GUIDANCE = 3.5


@functools.cache
def flux_model(name: str) -> FluxModel:
    """Look a model up; of one that is loaded its configuration files are read, and nothing else.

    Args:
        name: ``embedded``, ``random-flux:...``, or folder or hub name of a Flux pipeline.

    Raises:
        ConfigurationError: There is no such model.
        UnsupportedError: It is not a Flux pipeline.
    """
    kind = pipeline_class_of(name)
    if kind != "FluxPipeline":
        raise UnsupportedError(f"'{name}' is a {kind}; so far denoising steps are measured of FluxPipeline models only")
    model = find_model(name)
    assert isinstance(model, FluxModel)
    return model


@dataclass(frozen=True)
class WorkloadShape(CallShape):
    """A picture to denoise; tokens, heads and their width are those of its attention calls.

    Attributes:
        model: As the sweep calls it.
        size: Size of the picture, ``WIDTHxHEIGHT`` pixels.
        steps: Denoising steps of a call.
        prompt: What it shows.
        guidance: Guidance scale, for models distilled with one.
    """

    level: ClassVar[Level] = Level.PIPELINE

    model: str
    size: str
    steps: int
    prompt: str = PROMPT
    guidance: float = GUIDANCE

    @classmethod
    def of(
        cls,
        ranks: int,
        model: str,
        size: str,
        steps: int,
        dtype: str,
        prompt: str = PROMPT,
        guidance: float = GUIDANCE,
    ) -> WorkloadShape:
        """Fill in what follows from the model.

        Raises:
            TokenRingError: There is no such model, or it is not Flux.
        """
        found = flux_model(model)
        tokens = found.text_tokens + found.image_tokens(PictureSize.parse(size))
        attention = (ranks, tokens, None, found.heads, found.head_dim, 1, dtype)
        return cls(*attention, model, size, steps, prompt, guidance)

    def refusal(self, strategy: Strategy) -> str | None:
        """As in the base class; tokens need not divide, where TokenRing or its repairs see to it."""
        flux = flux_model(self.model)
        if strategy.kind.of_text:
            return f"{strategy} is for language models: use it with level text, or schedule:NAME"
        if strategy.kind is not StrategyKind.SINGLE and self.ranks == 1:
            return f"{strategy} needs more than one rank: use 'single', or more ranks"
        if strategy.captured and strategy.kind.of_diffusers:
            return f"{strategy}: steps of diffusers' own context parallel are not captured: use '{strategy.launched}'"
        if strategy.kind.of_diffusers:
            ring = strategy.kind is StrategyKind.DIFFUSERS_RING
            cut = {"text tokens": flux.text_tokens, "image tokens": flux.image_tokens(PictureSize.parse(self.size))}
            refused = refusal_of_own(cut, flux.heads, self.ranks, self.dtype, ring=ring)
        else:
            refused = self.refusal_of_degrees(strategy)
        if refused is None:
            try:
                dims = ParallelDims() if strategy.kind.of_diffusers else strategy.dims(self.ranks)
                flux.check(dims, PictureSize.parse(self.size))
            except TokenRingError as error:
                refused = str(error)
        return refused

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return (
            f"{self.model}, {self.size} pixels, {steps}, {self.tokens} tokens, {self.heads} heads of "
            f"{self.head_dim}, {self.dtype}, {self.ranks} ranks"
        )
