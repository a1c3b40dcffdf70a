"""What all runs say, pictures and texts alike: a model, prompts, ranks and where the results go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from tokenring_xdit.config import Config, parsed_by
from tokenring_xdit.dtypes import DTYPES, DTYPES_IN_SHORT, DtypeName, parse_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.values import LARGEST_SEED

__all__ = ["Count", "PromptConfig", "numbered"]


def _prompts(value: Any) -> Any:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{value!r} is neither text nor a list of texts; put in quotes what YAML reads otherwise")
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty" if prompts else "the list is empty")
    return tuple(prompts)


_PROMPT = {"type": "string", "pattern": r"\S"}

# The JSON schemas take what the validators take, in the other spellings too.
Prompts = Annotated[
    tuple[str, ...],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [_PROMPT, {"type": "array", "items": _PROMPT, "minItems": 1}]}),
]
Dtype = Annotated[
    DtypeName,
    parsed_by(parse_dtype),
    WithJsonSchema({"enum": [*DTYPES, *DTYPES_IN_SHORT]}),
]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class PromptConfig(Config):
    """Base of configs that describe a run; what the keys mean for a task, its own class says."""

    model: str = Field(min_length=1)
    prompt: Prompts | None = Field(None, description="one prompt or a list of them")
    prompt_file: str | None = Field(None, description="file with one prompt on each line, instead of 'prompt'")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the noise; prompt i of a list has seed + i")
    dtype: Dtype | None = Field(
        None, description="float32, bfloat16 or float16; bfloat16 on GPUs and float32 without by default"
    )
    tokenring_degree: Count = Field(1, description="ranks that TokenRing shards the sequence over")
    forecasts: str | None = Field(
        None,
        min_length=1,
        description="folder where 'serve' keeps what requests took, from which 'run --dry-run' and 'config check' "
        "forecast; that of the user's cache by default, and 'none' keeps nothing",
    )

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class."""
        mistakes = []
        if {"prompt", "prompt_file"} <= values.keys():
            given = [key for key in ("prompt", "prompt_file") if values[key] is not None]
            if not given:
                mistakes.append("prompt: is missing; write one, or name a prompt_file")
            if len(given) > 1:
                mistakes.append("prompt_file: stands beside a prompt, and only one of the two can be taken")
        prompts = values.get("prompt") or ()
        try:
            if values.get("prompt_file") is not None:
                prompts = _read_prompts(values["prompt_file"])
        except ConfigurationError as error:
            mistakes.append(f"prompt_file: {error}")
        if isinstance(prompts, (list, tuple)) and values.get("seed", 0) + len(prompts) - 1 > LARGEST_SEED:
            mistakes.append(f"seed: {values['seed']} leaves no seeds for {len(prompts)} prompts")
        return mistakes

    def prompts(self) -> tuple[str, ...]:
        """All prompts, from the file where one is named.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        return self.prompt if self.prompt is not None else _read_prompts(str(self.prompt_file))


def numbered(path: Path, count: int) -> list[Path]:
    """Where the results of that many prompts go: a file each, numbered where there are several."""
    if count == 1:
        return [path]
    digits = len(str(count - 1))
    return [path.with_stem(f"{path.stem}-{index:0{digits}}") for index in range(count)]


def _read_prompts(file: str) -> tuple[str, ...]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"'{file}' cannot be read: {reason}") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ConfigurationError(f"'{file}' has no prompts; write one on each line")
    return prompts
