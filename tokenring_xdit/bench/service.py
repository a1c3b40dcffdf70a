"""What a sweep of level ``service`` measures: pictures of several sizes, asked of a server whenever somebody comes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokenring_xdit.bench.plan import CallShape, Level, Strategy, StrategyKind
from tokenring_xdit.bench.workload import GUIDANCE, PROMPT, WorkloadShape

__all__ = ["Arrival", "ServiceShape"]

_AND = "+"

_SERVED = (StrategyKind.SINGLE, StrategyKind.ULYSSES, StrategyKind.SCHEDULE)


@dataclass(frozen=True)
class Arrival:
    """Somebody asks for a picture.

    Attributes:
        seconds: When, since the beginning of a round, whether or not those before were served by then.
        size: What size it is to have.
        seed: Its seed.
    """

    seconds: float
    size: str
    seed: int


@dataclass(frozen=True)
class ServiceShape(CallShape):
    """Requests to a server; tokens are those of the largest picture.

    Attributes:
        model: As the sweep calls it.
        size: Sizes of the pictures, as often each, as ``64x64+128x128``.
        steps: Denoising steps of each.
        prompt: What they show.
        guidance: Guidance scale, for models distilled with one.
        rate: Requests a second, on average.
        requests: Requests of a round.
    """

    level: ClassVar[Level] = Level.SERVICE

    model: str
    size: str
    steps: int
    prompt: str = PROMPT
    guidance: float = GUIDANCE
    rate: float = 1.0
    requests: int = 20

    @classmethod
    def of(
        cls,
        ranks: int,
        model: str,
        sizes: Sequence[str],
        steps: int,
        dtype: str,
        prompt: str,
        guidance: float,
        rate: float,
        requests: int,
    ) -> ServiceShape:
        """Fill in what follows from the model.

        Raises:
            TokenRingError: There is no such model, or it is not Flux.
        """
        each = [WorkloadShape.of(ranks, model, size, steps, dtype, prompt, guidance) for size in sizes]
        most = max(each, key=lambda one: one.tokens)
        attention = (ranks, most.tokens, None, most.heads, most.head_dim, 1, dtype)
        return cls(*attention, model, _AND.join(sizes), steps, prompt, guidance, rate, requests)

    @property
    def sizes(self) -> list[str]:
        """Each of them."""
        return self.size.split(_AND)

    def refusal(self, strategy: Strategy) -> str | None:
        """As in the base class."""
        if strategy.kind not in _SERVED or strategy.captured:
            return f"{strategy} is not served: use single, ulysses, schedule:NAME or ulysses=N+schedule:NAME"
        alone = (self.steps, self.dtype, self.prompt, self.guidance)
        refusals = (WorkloadShape.of(self.ranks, self.model, size, *alone).refusal(strategy) for size in self.sizes)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def arrivals(self, seed: int, turn: int) -> list[Arrival]:
        """Who comes in a round, the first one at its beginning; the same for all strategies.

        Args:
            seed: Seed of the sweep.
            turn: Number of the round.
        """
        dice = random.Random(f"{seed} {turn}")
        sizes = [self.sizes[number % len(self.sizes)] for number in range(self.requests)]
        dice.shuffle(sizes)
        came, found = 0.0, []
        for number, size in enumerate(sizes):
            found.append(Arrival(came, size, number))
            came += dice.expovariate(self.rate)
        return found

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return (
            f"{self.model} served, {self.size} pixels, {steps}, {self.requests} requests, {self.rate:g} a second, "
            f"{self.dtype}, {self.ranks} ranks"
        )
