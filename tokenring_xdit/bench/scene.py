"""A denoising step of a Flux pipeline as a problem of a sweep, and what is known of its model beforehand."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from tokenring_xdit.bench.plan import Level, Shape, Strategy, StrategyKind
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.pipelines.model import EMBEDDED, FluxModel, read_model_file
from tokenring_xdit.pipelines.random_flux import RANDOM_FLUX, RandomFlux
from tokenring_xdit.sizes import PictureSize

__all__ = ["SceneModel", "SceneShape", "find_model"]


@dataclass(frozen=True)
class SceneModel:
    """A Flux model of a sweep.

    Attributes:
        flux: What decides which degrees and sizes fit it; its name is what diffusers loads.
        head_dim: Width of a head.
        random: How it is made, where it is not loaded.
    """

    flux: FluxModel
    head_dim: int
    random: RandomFlux | None = None


@functools.cache
def find_model(name: str) -> SceneModel:
    """Look a model up; of one that is loaded its configuration files are read, and nothing else.

    Args:
        name: ``embedded``, ``random-flux:...``, or folder or hub name of a Flux pipeline.

    Raises:
        ConfigurationError: There is no such model.
        UnsupportedError: It is not a Flux pipeline.
    """
    if name.partition(":")[0] == RANDOM_FLUX:
        random = RandomFlux.parse(name)
        return SceneModel(random.facts(), random.head_dim, random)
    flux = FluxModel.find(None if name == EMBEDDED else name)
    transformer = read_model_file(flux.name, "transformer/config.json")
    return SceneModel(flux, int(transformer["attention_head_dim"]))


@dataclass(frozen=True)
class SceneShape(Shape):
    """A picture to denoise; tokens, heads and their width are those of its attention calls.

    Attributes:
        model: As the sweep calls it.
        size: Of the picture, ``WIDTHxHEIGHT`` pixels.
        steps: Denoising steps of a call.
    """

    level: ClassVar[Level] = Level.PIPELINE

    model: str
    size: str
    steps: int

    @classmethod
    def of(cls, ranks: int, model: str, size: str, steps: int, dtype: str) -> SceneShape:
        """Fill in what follows from the model.

        Raises:
            TokenRingError: There is no such model, or it is not Flux.
        """
        found = find_model(model)
        tokens = found.flux.text_tokens + found.flux.image_tokens(PictureSize.parse(size))
        return cls(ranks, tokens, None, found.flux.heads, found.head_dim, 1, dtype, model, size, steps)

    def refusal(self, strategy: Strategy) -> str | None:
        """As in the base class; tokens need not divide, where TokenRing or its repairs see to it."""
        flux = find_model(self.model).flux
        if strategy.kind is not StrategyKind.SINGLE and self.ranks == 1:
            return f"{strategy} on one rank shares a pipeline with nobody: use 'single', or more ranks"
        refused = self.refusal_of_degrees(strategy)
        if refused is None:
            try:
                flux.check(strategy.dims(self.ranks), PictureSize.parse(self.size))
            except TokenRingError as error:
                refused = str(error)
        return refused

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return (
            f"{self.model}, {self.size} pixels, {steps}, {self.tokens} tokens, {self.heads} heads of "
            f"{self.head_dim}, {self.dtype}, {self.ranks} ranks"
        )
