"""Options that every command which draws a picture has."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenring_xdit.cli.paths import refuse_unwritable
from tokenring_xdit.dtypes import DTYPES, parse_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.options import LARGEST_SIDE
from tokenring_xdit.sizes import PictureSize

if TYPE_CHECKING:
    from tokenring_xdit.pipelines.jobs import Picture
    from tokenring_xdit.pipelines.model import FluxModel

__all__ = ["add_picture_options", "picture_from", "png_path"]


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Add prompt, model and the other options that say what to draw."""
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument(
        "--model", help="folder or hub name of a Flux model; the small one that ships with the package by default"
    )
    parser.add_argument("--size", help="pixels, or WIDTHxHEIGHT; what the model was trained for by default")
    parser.add_argument("--steps", type=int, default=28, help="denoising steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument(
        "--guidance",
        type=float,
        default=3.5,
        help="guidance scale, for models distilled with one (default: %(default)s)",
    )
    parser.add_argument(
        "--largest-side",
        type=int,
        default=LARGEST_SIDE,
        help="pixels that width and height may have; more are taken for a slip of the finger (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)} (default: bfloat16 on GPUs, float32 without)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def picture_from(args: argparse.Namespace) -> tuple[FluxModel, Picture]:
    """Check the options and find the model.

    Raises:
        TokenRingError: An option cannot work.
    """
    from tokenring_xdit.pipelines.jobs import Picture
    from tokenring_xdit.pipelines.loading import default_dtype
    from tokenring_xdit.pipelines.model import FluxModel
    from tokenring_xdit.pipelines.request import Request, value_mistakes

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
    from tokenring_xdit.pipelines.embedded.scenes import vocabulary

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
