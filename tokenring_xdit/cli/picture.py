"""Which picture is drawn, as the command line says."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.devices import default_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.lab.embedded.scenes import vocabulary
from tokenring_xdit.pipelines.jobs import Picture
from tokenring_xdit.pipelines.model import FluxModel
from tokenring_xdit.pipelines.request import Request, value_mistakes
from tokenring_xdit.sizes import PictureSize

__all__ = ["picture_from", "png_path"]


def picture_from(args: argparse.Namespace) -> tuple[FluxModel, Picture]:
    """Check the options and find the model.

    Raises:
        TokenRingError: An option cannot work.
    """
    if not args.prompt.strip():
        raise ConfigurationError("the prompt is empty")
    size = None if args.size is None else PictureSize.parse(args.size)
    model = FluxModel.find(args.model)
    drawn = size or model.default_size
    asked = Request(
        prompt=args.prompt,
        width=drawn.width,
        height=drawn.height,
        steps=args.steps,
        seed=args.seed,
        guidance=args.guidance,
        largest_side=args.largest_side,
    )
    found = value_mistakes(asked)
    if found:
        raise ConfigurationError("; ".join(found))
    if model.embedded:
        _note_limits(args.prompt, size, model)
    picture = Picture(
        model=model.name,
        prompt=args.prompt,
        size=drawn,
        steps=args.steps,
        seed=args.seed,
        guidance=args.guidance,
        text_tokens=model.text_tokens,
        dtype=args.dtype or default_dtype(),
    )
    return model, picture


def _note_limits(prompt: str, size: PictureSize | None, model: FluxModel) -> None:
    """Say what the embedded model was not trained for; it draws something all the same."""
    words = vocabulary()
    unknown = sorted({word for word in re.findall(r"[^\W\d_]+", prompt.lower()) if word not in words})
    if unknown:
        print(f"note: the embedded model knows only these words: {', '.join(words)}", file=sys.stderr)
        print(f"note: not among them: {', '.join(unknown)}; for other pictures name a --model", file=sys.stderr)
    if size is not None and size != model.default_size:
        print(f"note: the embedded model was trained on pictures of {model.default_size} pixels", file=sys.stderr)


def png_path(text: str) -> Path:
    """Check that a PNG can be written there, before it is drawn.

    Raises:
        ConfigurationError: The name does not end in .png, or the file cannot be written.
    """
    path = Path(text).resolve()
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"--output {text}: a PNG is written, so the name has to end in .png")
    refuse_unwritable(path, f"--output {text}")
    return path
