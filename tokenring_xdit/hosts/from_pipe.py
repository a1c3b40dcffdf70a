"""diffusers' ``from_pipe`` with a pipeline whose transformer is spread over ranks."""

from __future__ import annotations

from functools import wraps
from typing import Any

from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.sharding import sharded_of, transformers_of

__all__ = ["HOOKS"]


def hand_on_spread_transformers(pipelines: Any) -> None:
    """Let ``from_pipe`` hand on a transformer that is spread over ranks, which it would leave out for its class."""
    base = pipelines.DiffusionPipeline
    original = vars(base)["from_pipe"].__func__

    @wraps(original)
    def from_pipe(cls: Any, pipeline: Any, **options: Any) -> Any:
        # diffusers hands a model on where its class is the very one that the new pipeline names
        named = {} if options.get("custom_pipeline") is not None else cls._get_signature_types()
        spread = {}
        for part, model in transformers_of(pipeline).items():
            sharded = sharded_of(model)
            if sharded is not None and sharded.kind in named.get(part, ()):
                spread[part] = model
        return original(cls, pipeline, **{**spread, **options})

    method: Any = from_pipe
    INSTALLATION.replace(base, "from_pipe", classmethod(method))


HOOKS = {"diffusers.pipelines.pipeline_utils": hand_on_spread_transformers}
