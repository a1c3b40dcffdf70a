"""``tokenring-xdit generate``: a picture from a prompt, on one rank or several."""

from __future__ import annotations

import argparse
import json

from tokenring_xdit.cli.picture import picture_from, png_path
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.jobs import GenerateJob
from tokenring_xdit.pipelines.launch import run_job

__all__ = ["generate_command"]


def generate_command(args: argparse.Namespace) -> None:
    """Draw a picture."""
    degrees = ParallelDims(args.ulysses_degree, args.tokenring_degree, args.ring_degree, args.schedule)
    if args.ranks is not None and args.ranks != degrees.ranks:
        raise ConfigurationError(
            f"--ranks {args.ranks} does not fit the degrees: ulysses {degrees.ulysses} x tokenring {degrees.tokenring} "
            f"x ring {degrees.ring} make {degrees.ranks}"
        )
    model, picture = picture_from(args)
    model.check(degrees, picture.size)
    output = png_path(args.output)
    result = run_job(GenerateJob(picture, degrees, str(output)), degrees.ranks)
    if args.json:
        print(json.dumps({**result, "ranks": degrees.ranks}))
    else:
        step = f", {result['ms_per_step']:.0f} ms a step" if result["ms_per_step"] is not None else ""
        print(f"wrote {result['output']} ({degrees.ranks} rank{'s' * (degrees.ranks > 1)}{step})")
