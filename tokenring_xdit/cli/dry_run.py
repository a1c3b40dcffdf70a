"""``tokenring-xdit run --dry-run``: what would run, and what it is expected to take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tokenring_xdit.devices import default_dtype
from tokenring_xdit.pipelines.inspection import outputs_of
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.pipelines.tasks import AnyRun
from tokenring_xdit.serve.foresee import foresee, picture_values
from tokenring_xdit.sizes import PictureSize

__all__ = ["tell_run"]

_UNKNOWN = (
    "forecast: unknown, as no server has served this model with these ranks, or nothing of such a size; runs that "
    "start from pictures or videos are not forecast"
)


def tell_run(config: AnyRun, *, as_json: bool) -> None:
    """Print it; nothing of the model is loaded."""
    about, forecast = _about(config), foresee(config)
    if as_json:
        print(json.dumps({**about, "forecast": None if forecast is None else asdict(forecast)}))
        return
    for name, value in about.items():
        if value is not None:
            print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    print(_UNKNOWN if forecast is None else f"forecast: {forecast}")
    print("nothing was loaded or written")


def _about(config: AnyRun) -> dict[str, Any]:
    dims = config.degrees
    about: dict[str, Any] = {
        "model": config.model,
        "task": config.task,
        "dtype": config.dtype or default_dtype(),
        "ranks": dims.ranks,
        "tokenring_degree": dims.tokenring,
    }
    if isinstance(config, RunConfig):
        values = picture_values(config)
        width, height = values.get("width"), values.get("height")
        about |= {
            "ulysses_degree": dims.ulysses,
            "schedule": dims.schedule if dims.tokenring > 1 else None,
            "size": str(PictureSize(width, height)) if width and height else None,
            "frames": values.get("frames"),
            "steps": values.get("steps"),
        }
    else:
        about["max_new_tokens"] = config.answer_options.max_new_tokens
    return {**about, "prompts": len(config.prompts()), "output": [str(path) for path in outputs_of(config)]}
