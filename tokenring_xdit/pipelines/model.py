"""What can be known of any diffusers model, and refused, before a rank loads it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hosts.refusals import heads_of, refuse_ulysses
from tokenring_xdit.hub import download
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.request import Request

__all__ = ["EMBEDDED", "RANDOM_FLUX", "Model", "read_model_file"]

EMBEDDED = "embedded"
"""Name of the model that ships with the package."""

RANDOM_FLUX = "random-flux"
"""Name that models with random weights begin with; their options follow behind a colon."""


@dataclass(frozen=True)
class Model:
    """A diffusers pipeline by name; families that say more of themselves have a class of their own.

    Attributes:
        name: Folder or hub name, as diffusers takes it.
        heads: Attention heads, where the model says.
    """

    name: str
    heads: int | None

    @classmethod
    def find(cls, name: str) -> Model:
        """Read the configuration of a model's transformer, and nothing else of it.

        Raises:
            ConfigurationError: There is no such model, or it has no transformer.
            ModelUnreachableError: It is not here, and the hub cannot be asked.
        """
        return cls(name, heads_of(read_model_file(name, "transformer/config.json")))

    def refuse_degrees(self, degrees: ParallelDims) -> None:
        """Refuse degrees that do not fit, whatever is asked for.

        Raises:
            UnsupportedError: They do not.
        """
        refuse_ulysses(degrees.ulysses, self.heads)

    def complete(self, request: Request) -> Request:
        """Fill in what the model knows better than its pipeline."""
        return request

    def check_request(self, degrees: ParallelDims, request: Request) -> None:
        """Refuse a complete request whose values have been checked where these degrees cannot make it.

        Raises:
            ConfigurationError: It does not fit the model.
            UnsupportedError: It does not fit the degrees.
        """

    def scheduler_config(self) -> dict[str, Any]:
        """The configuration of its own scheduler.

        Raises:
            ConfigurationError: It has none.
            ModelUnreachableError: It is not here, and the hub cannot be asked.
        """
        return read_model_file(self.name, "scheduler/scheduler_config.json")

    def load(
        self, dtype: str, device: torch.device, kind: type | None = None, parts: Mapping[str, Any] | None = None
    ) -> Any:
        """The diffusers pipeline.

        Args:
            dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.
            device: From :func:`tokenring_xdit.devices.rank_device`.
            kind: Class of the pipeline; ``None`` for the one that the model names.
            parts: What it consists of beside what the model has, by name.
        """
        from diffusers import DiffusionPipeline

        from tokenring_xdit.compat.diffusers import from_pretrained

        return from_pretrained(kind or DiffusionPipeline, self.name, torch_dtype(dtype), **(parts or {})).to(device)


def read_model_file(
    model: str,
    file: str,
    *,
    kind: str = "diffusers pipeline",
    example: str = "black-forest-labs/FLUX.1-dev",
    names: Sequence[str] = (EMBEDDED, RANDOM_FLUX),
) -> dict[str, Any]:
    """Read one JSON file of a model, and nothing else of it.

    Args:
        model: Folder or hub name.
        file: Path inside it.
        kind: What is wanted, for messages.
        example: A hub name of such.
        names: Those of this package.

    Raises:
        ConfigurationError: There is no such model, or no such file in it.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    folder = Path(model)
    if folder.is_dir():
        path = folder / file
        if not path.is_file():
            raise ConfigurationError(f"'{model}' is not a {kind} folder: it has no {file}")
    elif model.count("/") != 1 or model.startswith((".", "/", "~")):
        near = difflib.get_close_matches(model, names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        quoted = ", or ".join(f"'{name}'" for name in names)
        more = f", {quoted}" if names else ""
        raise ConfigurationError(
            f"there is no model folder '{model}'. A model is a folder, a hub name such as {example}{more}.{hint}"
        )
    else:
        path = download(model, file, kind)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigurationError(f"{path} is damaged: {error}; download the model again") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is damaged: it holds no names with values; download the model again")
    return content
