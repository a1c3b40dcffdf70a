"""Forecasts for a config: attention from the planner, and what servers have learned with the same ranks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from tokenring_xdit.amounts import bytes_in_words
from tokenring_xdit.devices import default_dtype
from tokenring_xdit.dtypes import DTYPE_BYTES
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts.models import usual_shape
from tokenring_xdit.pipelines.flux import FluxModel
from tokenring_xdit.pipelines.loading import find_model
from tokenring_xdit.pipelines.options import STEP_SCHEDULES
from tokenring_xdit.pipelines.request import Request, defaults_of
from tokenring_xdit.pipelines.run import FILE_KEYS, RunConfig
from tokenring_xdit.pipelines.run_model import pipeline_of
from tokenring_xdit.pipelines.text_models import load_tokenizer
from tokenring_xdit.pipelines.text_orders import asked_about
from tokenring_xdit.pipelines.text_prompt import conversation_tokens
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.planning.growth import AttentionGrowth, TextAttentionGrowth
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.store import ForecastStore, store_of

__all__ = ["Foreseen", "Learned", "foresee", "picture_values"]


class Learned:
    """What is known of requests: nothing at first.

    Args:
        config: What the ranks are.
        memory: Forecasts of memory; those of a server have a limit.

    Attributes:
        forecast: Forecast of seconds.
        memory: Forecast of bytes.
    """

    def __init__(self, config: RunConfig | TextRunConfig, memory: MemoryForecast | None = None) -> None:
        self.memory = MemoryForecast() if memory is None else memory
        self.forecast = _forecast(config)
        self._config = config
        self._store: ForecastStore = store_of(config)

    def recall(self, elsewhere: str | None = None) -> bool:
        """Take up what a server with the same ranks had left; returns whether there was anything.

        Args:
            elsewhere: Where they are, if that is not this machine.
        """
        self._store = store_of(self._config, elsewhere)
        return self._store.recall(self.forecast, self.memory)

    def keep(self) -> None:
        """Write it down for the next server."""
        self._store.keep(self.forecast, self.memory)


@dataclass(frozen=True)
class Foreseen:
    """What a run is expected to take.

    Attributes:
        seconds: Seconds of all its requests, once the model is loaded; ``None`` where too little is known.
        peak_bytes: Peak bytes of the rank that will hold most, its model included; ``None`` likewise.
        requests: How many the forecast was learned from.
    """

    seconds: float | None
    peak_bytes: int | None
    requests: int

    def __str__(self) -> str:
        time = "an unknown time" if self.seconds is None else f"about {self.seconds:.3g} s"
        size = "" if self.peak_bytes is None else f" and {bytes_in_words(self.peak_bytes)} of a rank's memory"
        return f"{time}{size}, as {self.requests} requests to 'serve' took"


def foresee(config: RunConfig | TextRunConfig) -> Foreseen | None:
    """What a run will take, without loading its model; ``None`` where no server has served it with these ranks.

    Runs that start from pictures are not forecast, as their sizes may have to be fetched.
    """
    with contextlib.suppress(TokenRingError):
        if store_of(config).exists and (learned := Learned(config)).recall():
            work = _of_texts(config) if isinstance(config, TextRunConfig) else _of_pictures(config)
            return _summed(learned, work)
    return None


@dataclass(frozen=True)
class _Work:
    """One request: what its steps, the rest and its memory depend on."""

    size: int
    steps: int
    rest_size: int
    memory_size: int


def _summed(learned: Learned, work: list[_Work]) -> Foreseen | None:
    if not work:
        return None
    times = [learned.forecast.seconds(each.size, each.steps, rest_size=each.rest_size) for each in work]
    peaks = [learned.memory.peak(each.memory_size) for each in work]
    known = [seconds for seconds in times if seconds is not None]
    held = [peak for peak in peaks if peak is not None]
    if not known and not held:
        return None
    return Foreseen(
        sum(known) if len(known) == len(times) else None,
        max(held) if len(held) == len(peaks) else None,
        learned.forecast.requests,
    )


def picture_values(config: RunConfig) -> dict[str, Any]:
    """What is taken of a config that says nothing; ``None`` for what the pipeline works out."""
    pipeline, model = pipeline_of(config), find_model(config.model, config.choice)
    request, known = model.complete(Request(prompt="a prompt")), defaults_of(pipeline)

    def first_of(*values: Any) -> Any:
        return next((value for value in values if value is not None), None)

    values: dict[str, Any] = {
        name: first_of(getattr(config, name, None), getattr(request, name), known[name])
        for name in ("width", "height", "frames", "steps", "guidance", "negative_prompt")
        if name in known
    }
    said = next((config.options[name] for name in STEP_SCHEDULES if config.options.get(name) is not None), None)
    if said is not None:
        values["steps"] = len(said)
    return values | ({"width": config.size.width, "height": config.size.height} if config.size is not None else {})


def _of_pictures(config: RunConfig) -> list[_Work]:
    values = picture_values(config)
    pixels = (values.get("width") or 0) * (values.get("height") or 0) * (values.get("frames") or 1)
    if not pixels or any(getattr(config, key) for key in FILE_KEYS):
        return []
    whole, left = divmod(len(config.prompts()), config.batch_size)
    sizes = [pixels * count for count in [config.batch_size] * whole + [left] * (left > 0)]
    return [_Work(size, values.get("steps") or 1, size, size) for size in sizes]


def _of_texts(config: TextRunConfig) -> list[_Work]:
    tokenizer, context = load_tokenizer(config.model), config.read_context()
    answer, found = config.answer_options.max_new_tokens, []
    for prompt in config.prompts():
        tokens = len(conversation_tokens(tokenizer, [asked_about(context, prompt)]))
        found.append(_Work(tokens, answer, tokens, tokens + answer))
    return found


def _forecast(config: RunConfig | TextRunConfig) -> Forecast:
    gpus, dtype = torch.cuda.is_available(), config.dtype or default_dtype()
    if isinstance(config, TextRunConfig):
        text = TextAttentionGrowth(config.degrees.ranks, gpus=gpus, element_bytes=DTYPE_BYTES[dtype])
        return Forecast(text.decode, text.prefill)
    shape, model = usual_shape(pipeline_of(config).__name__), find_model(config.model, config.choice)
    if shape is not None and isinstance(model, FluxModel):
        shape = replace(shape, patch=model.pixels_per_token, text=model.text_tokens)
    return Forecast(AttentionGrowth(config.degrees, shape, gpus=gpus, element_bytes=DTYPE_BYTES[dtype]))
