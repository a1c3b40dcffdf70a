"""What can be known about a Flux model, and refused, before any rank loads it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.refusals import refuse_ulysses
from tokenring_xdit.hub import download
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.request import Request, pictures_of
from tokenring_xdit.sizes import PictureSize

__all__ = ["EMBEDDED", "FluxModel", "read_model_file"]

EMBEDDED = "embedded"
"""Name of the model that ships with the package."""

_TEXT_TOKENS = "max_sequence_length"
"""What Flux's call calls the number of text tokens."""

_LONGEST_TEXT = 512
"""Flux's own limit of text tokens; a tokenizer with a lower one lowers it."""


@dataclass(frozen=True)
class FluxModel:
    """A ``FluxPipeline`` folder or hub name, with the facts that decide which degrees fit it.

    Attributes:
        name: Folder or hub name, as diffusers takes it.
        heads: Attention heads.
        pixels_per_token: Pixels on a side of the square that one image token stands for.
        text_tokens: Text tokens that a prompt is padded to.
        default_size: Size of picture it was trained for.
        channels: Numbers of an image token in its latents.
    """

    name: str
    heads: int
    pixels_per_token: int
    text_tokens: int
    default_size: PictureSize
    channels: int

    @classmethod
    def find(cls, name: str | None) -> FluxModel:
        """Read the model's configuration files, and nothing else of it.

        Args:
            name: Folder or hub name; ``None`` is the embedded model.

        Raises:
            ConfigurationError: There is no such model.
            UnsupportedError: It is not a Flux pipeline.
        """
        name = str(MODEL_PATH) if name is None else name
        index = read_model_file(name, "model_index.json")
        if index.get("_class_name") != "FluxPipeline":
            raise UnsupportedError(
                f"'{name}' is a {index.get('_class_name', 'model of unknown kind')}; so far only FluxPipeline "
                "models are supported"
            )
        transformer = read_model_file(name, "transformer/config.json")
        vae = read_model_file(name, "vae/config.json")
        longest = read_model_file(name, "tokenizer_2/tokenizer_config.json").get("model_max_length", _LONGEST_TEXT)
        pixels = 2 ** (len(vae["block_out_channels"]) - 1) * 2  # latents are packed two by two
        side = int(vae.get("sample_size") or 1024)
        return cls(
            name=name,
            heads=int(transformer["num_attention_heads"]),
            pixels_per_token=pixels,
            text_tokens=min(_LONGEST_TEXT, int(longest)),
            default_size=PictureSize(side, side),
            channels=int(transformer.get("in_channels") or 64),
        )

    @property
    def embedded(self) -> bool:
        """Whether it is the model that ships with the package."""
        return self.name == str(MODEL_PATH)

    def image_tokens(self, size: PictureSize) -> int:
        """Image tokens of a picture."""
        return (size.width // self.pixels_per_token) * (size.height // self.pixels_per_token)

    def check(self, degrees: ParallelDims, size: PictureSize) -> None:
        """Refuse what cannot run, or would be computed wrongly, before anything is started.

        Raises:
            ConfigurationError: The size does not fit the model.
            UnsupportedError: The degrees do not fit the model or the size.
        """
        unit = self.pixels_per_token
        if size.width % unit or size.height % unit:
            fitting = PictureSize(*(max(1, round(side / unit)) * unit for side in (size.width, size.height)))
            raise ConfigurationError(f"size {size} is not a multiple of {unit} pixels on both sides; {fitting} is")
        refuse_ulysses(degrees.ulysses, self.heads)
        tokens = self.image_tokens(size)
        if degrees.ranks > tokens:
            raise UnsupportedError(f"{degrees.ranks} ranks are more than the {tokens} image tokens of a {size} picture")
        if degrees.tokenring == 1:
            self._check_upstream(degrees, size)

    def complete(self, request: Request) -> Request:
        """Fill in what this model knows better than its pipeline, which takes every model for one of 1024 pixels.

        Args:
            request: What is asked for.
        """
        return replace(
            request,
            width=self.default_size.width if request.width is None else request.width,
            height=self.default_size.height if request.height is None else request.height,
            options={_TEXT_TOKENS: self.text_tokens, **request.options},
        )

    def check_request(self, degrees: ParallelDims, request: Request) -> None:
        """:meth:`check` for a complete request whose values have been checked.

        Raises:
            ConfigurationError: The size does not fit the model.
            UnsupportedError: The degrees do not fit the model or the size.
        """
        assert request.width is not None
        assert request.height is not None
        tokens = request.options[_TEXT_TOKENS]
        if not isinstance(tokens, int) or not 1 <= tokens <= _LONGEST_TEXT:
            raise ConfigurationError(
                f"{_TEXT_TOKENS} is {tokens!r}; it has to be a whole number from 1 to {_LONGEST_TEXT}"
            )
        size = PictureSize(request.width, request.height)
        replace(self, text_tokens=tokens).check(degrees, size)
        latents = request.options.get("latents")
        if latents is not None:
            wanted = (pictures_of(request), self.image_tokens(size), self.channels)
            if tuple(latents.shape) != wanted:
                raise ConfigurationError(
                    f"latents has shape {tuple(latents.shape)}; {wanted} is what a picture of {size} pixels has, packed"
                )

    def _check_upstream(self, degrees: ParallelDims, size: PictureSize) -> None:
        """Where xfuser 0.7 itself raises, or counts text keys once a rank (see ``repairs/flux.py``)."""
        advice = f"tokenring_degree={degrees.ranks} takes any length"
        if self.text_tokens % degrees.ranks:
            raise UnsupportedError(
                f"xfuser 0.7 computes wrongly when {degrees.ranks} ranks of Ulysses and Ring share {self.text_tokens} "
                f"text tokens, which they do not divide: {advice}"
            )
        rows = size.height // self.pixels_per_token
        if rows % degrees.ranks:
            raise UnsupportedError(
                f"xfuser 0.7 cannot share {rows} rows of image tokens among {degrees.ranks} ranks of Ulysses and "
                f"Ring: {advice}"
            )


def read_model_file(model: str, file: str) -> dict[str, Any]:
    """Read one JSON file of a model, and nothing else of it.

    Args:
        model: Folder or hub name.
        file: Path inside it.

    Raises:
        ConfigurationError: There is no such model, or no such file in it.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    folder = Path(model)
    if folder.is_dir():
        path = folder / file
        if not path.is_file():
            raise ConfigurationError(f"'{model}' is not a diffusers pipeline folder: it has no {file}")
    elif model.count("/") != 1 or model.startswith((".", "/", "~")):
        hint = f" Did you mean '{EMBEDDED}'?" if difflib.get_close_matches(model, [EMBEDDED]) else ""
        raise ConfigurationError(
            f"there is no model folder '{model}'. A model is a folder, a hub name such as "
            f"black-forest-labs/FLUX.1-dev, or '{EMBEDDED}'.{hint}"
        )
    else:
        path = download(model, file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigurationError(f"{path} is damaged: {error}; download the model again") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is damaged: it holds no names with values; download the model again")
    return content
