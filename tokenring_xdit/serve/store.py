"""What servers have learned of requests, kept in files over restarts: one for each model, degrees and schedule."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenring_xdit.devices import default_dtype, device_name
from tokenring_xdit.errors import OutputError
from tokenring_xdit.messages import one_line
from tokenring_xdit.outputs import cache_folder, write_whole
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.serve.forecast import Forecast, KeptTimes
from tokenring_xdit.serve.jobs import InputPictures
from tokenring_xdit.serve.memory import KeptNeeds, MemoryForecast

__all__ = ["ForecastStore", "key_of", "store_of"]

log = logging.getLogger(__name__)

_NONE = "none"

_MOST_KEPT = 10_000
"""Sizes, each with what was looked at; the latest ones are kept."""


def key_of(config: RunConfig | TextRunConfig, elsewhere: str | None = None) -> dict[str, str | int | bool | None]:
    """What requests have to have in common to take the same.

    Args:
        config: What they ask of a model.
        elsewhere: Where the ranks are, if that is not this machine.
    """
    key: dict[str, str | int | bool | None] = {
        "model": _place(config.model),
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
            "controlnet": None if config.controlnet is None else _place(config.controlnet),
        }
    return key


def _place(name: str) -> str:
    """The name of a model on the hub, or where its folder is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


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
        return self.path is not None and os.path.exists(self.path)  # which is false for a folder that may not be read

    def recall(self, forecast: Forecast, memory: MemoryForecast) -> bool:
        """Have forecasts take up what was kept; ``False`` where that is nothing, or nothing that can be used."""
        try:
            kept = self._read()
        except ValidationError:
            log.warning("forecasts: %s is damaged, or of another version, and is not used", self.path)
            return False
        except (OSError, UnicodeDecodeError) as error:
            log.warning("forecasts: %s cannot be read, and is not used: %s", self.path, error)
            return False
        if kept is None:
            return False
        forecast.recall([each.times for each in kept.steps], [each.times for each in kept.rest])
        memory.recall([each.needs for each in kept.memory], kept.model_bytes or 0)
        self._written = kept.model_dump_json()
        return True

    def _read(self) -> _Kept | None:
        """What is in the file; ``None`` where there is none, or it is of something else.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no text, damaged, or of another version.
        """
        try:
            text = "" if self.path is None else self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        if not text:
            return None
        kept = _Kept.model_validate_json(text)
        return kept if kept.key == self._key else None

    def keep(self, forecast: Forecast, memory: MemoryForecast) -> None:
        """Write what was learned, if that is anything new; where it cannot be written that is logged, once."""
        steps, rest = forecast.kept()
        if self.path is None or not (steps or memory.kept()):
            return
        others = None
        with contextlib.suppress(OSError, ValueError):  # as recall() has said
            others = self._read()  # of a server that learned with the same ranks in the meantime
        try:
            kept = _Kept(
                key=self._key,
                steps=_noted(steps, others.steps if others else []),
                rest=_noted(rest, others.rest if others else []),
                memory=_noted(memory.kept(), others.memory if others else []),
                model_bytes=memory.model,
            )
            text = kept.model_dump_json()
            if text == self._written:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text)
        except (OSError, OutputError, ValueError) as error:  # ValueError: a name of a model that is no UTF-8
            if not self._complained:
                log.warning("forecasts are not kept over restarts: %s", one_line(str(error)))
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
    steps: list[_Noted] = Field(max_length=_MOST_KEPT)
    rest: list[_Noted] = Field(max_length=_MOST_KEPT)
    memory: list[_Noted] = Field(max_length=_MOST_KEPT)
    model_bytes: int | None = Field(ge=0)


def _noted(kept: Iterable[tuple[InputPictures, int, Sequence[float]]], others: Iterable[_Noted]) -> list[_Noted]:
    """What was learned here, and of other sizes what others did."""
    found = {(each.inputs, each.size): each for each in others}
    for inputs, size, values in kept:
        found.pop((inputs, size), None)
        found[inputs, size] = _Noted(pictures=inputs.count, bits=inputs.size, size=size, values=list(values))
    return list(found.values())[-_MOST_KEPT:]
