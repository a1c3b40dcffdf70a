"""What servers have learned of requests, kept in files over restarts: one for each model, degrees and schedule."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenring_xdit.devices import default_dtype, device_name
from tokenring_xdit.errors import OutputError
from tokenring_xdit.outputs import cache_folder, write_whole
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.serve.forecast import Forecast, KeptTimes
from tokenring_xdit.serve.jobs import InputPictures
from tokenring_xdit.serve.memory import KeptNeeds, MemoryForecast

__all__ = ["ForecastStore", "key_of", "store_of"]

log = logging.getLogger(__name__)

_NONE = "none"


def key_of(config: RunConfig | TextRunConfig, elsewhere: str | None = None) -> dict[str, str | int | bool | None]:
    """What requests have to have in common to take the same.

    Args:
        config: What they ask of a model.
        elsewhere: Where the ranks are, if that is not this machine.
    """
    local = Path(config.model).is_dir()
    key: dict[str, str | int | bool | None] = {
        "model": str(Path(config.model).resolve()) if local else config.model,
        "task": config.task,
        "dtype": config.dtype or default_dtype(),
        "tokenring": config.degrees.tokenring,
        "device": elsewhere or device_name(),
    }
    if isinstance(config, RunConfig):
        key |= {
            "ulysses": config.degrees.ulysses,
            "schedule": config.degrees.schedule,
            "attention_backend": str(config.attention_backend.value),
            "cuda_graphs": config.cuda_graphs,
            "scheduler": config.scheduler,
            "loras": len(config.loras),
        }
    return key


def store_of(config: RunConfig | TextRunConfig, elsewhere: str | None = None) -> ForecastStore:
    """Where a config has it kept; its arguments are those of :func:`key_of`."""
    return ForecastStore(_folder(config.forecasts), key_of(config, elsewhere))


def _folder(said: str | None) -> Path | None:
    if said is not None:
        return None if said == _NONE else Path(said)
    try:
        return cache_folder() / "forecasts"
    except RuntimeError as error:  # a user without a home
        log.warning("forecasts are not kept over restarts: %s; say 'forecasts: FOLDER'", error)
        return None


class ForecastStore:
    """A file of what was learned, written whole or not at all.

    Args:
        folder: Where it is; ``None`` keeps nothing.
        key: What it is about, which names it.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        self._key = dict(key)
        name = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        self.path = None if folder is None else folder / f"{name}.json"
        self._written: str | None = None
        self._complained = False

    @property
    def exists(self) -> bool:
        """Whether anything was kept."""
        return self.path is not None and self.path.exists()

    def recall(self, forecast: Forecast, memory: MemoryForecast) -> bool:
        """Have forecasts take up what was kept; ``False`` where that is nothing, or nothing that can be used."""
        try:
            text = "" if self.path is None else self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except (OSError, UnicodeDecodeError) as error:
            log.warning("forecasts: %s cannot be read, and is not used: %s", self.path, error)
            return False
        if not text:
            return False
        try:
            kept = _Kept.model_validate_json(text)
        except ValidationError:
            log.warning("forecasts: %s is damaged, or of another version, and is not used", self.path)
            return False
        if kept.key != self._key:
            return False
        forecast.recall([each.times for each in kept.steps], [each.times for each in kept.rest])
        memory.recall([each.needs for each in kept.memory], kept.model_bytes or 0)
        self._written = text
        return True

    def keep(self, forecast: Forecast, memory: MemoryForecast) -> None:
        """Write what was learned, if that is anything new; where it cannot be written that is logged, once."""
        steps, rest = forecast.kept()
        if self.path is None or not (steps or memory.kept()):
            return
        kept = _Kept(
            key=self._key,
            steps=_noted(steps),
            rest=_noted(rest),
            memory=_noted(memory.kept()),
            model_bytes=memory.model,
        )
        text = kept.model_dump_json()
        if text == self._written:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text)
        except (OSError, OutputError) as error:
            if not self._complained:
                log.warning("forecasts are not kept over restarts: %s", error)
            self._complained = True
        else:
            self._written = text


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Noted(BaseModel):
    """Of one size, after the same pictures."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pictures: int = Field(ge=0)
    bits: int = Field(ge=0)
    size: int = Field(ge=1)
    values: list[_Seconds] = Field(min_length=1, max_length=64)

    @property
    def inputs(self) -> InputPictures:
        """What was looked at."""
        return InputPictures(self.pictures, self.bits)

    @property
    def times(self) -> KeptTimes:
        """As forecasts have it."""
        return self.inputs, self.size, self.values

    @property
    def needs(self) -> KeptNeeds:
        """As forecasts of memory have it."""
        return self.inputs, self.size, [max(1, round(value)) for value in self.values]


class _Kept(BaseModel):
    """All that stands in a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = 1
    key: dict[str, str | int | bool | None]
    steps: list[_Noted] = Field(max_length=10_000)
    rest: list[_Noted] = Field(max_length=10_000)
    memory: list[_Noted] = Field(max_length=10_000)
    model_bytes: int | None = Field(ge=0)


def _noted(kept: Iterable[tuple[InputPictures, int, Sequence[float]]]) -> list[_Noted]:
    return [
        _Noted(pictures=inputs.count, bits=inputs.size, size=size, values=list(values)) for inputs, size, values in kept
    ]
