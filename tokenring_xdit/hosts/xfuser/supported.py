"""Which pipelines TokenRing may run in: those that were compared with the single process, and no others."""

from __future__ import annotations

import pkgutil
from importlib.metadata import version
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.refusals import heads_of, refuse_ulysses
from tokenring_xdit.hosts.xfuser.choice import choice_of, tokenring_degree_of
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.hosts.xfuser.family import OwnPipeline, XfuserFamily
from tokenring_xdit.hosts.xfuser.refused import PIPELINES_REFUSED, RUNNERS_REFUSED
from tokenring_xdit.hosts.xfuser.repairs.common import pipeline_name, replace_method
from tokenring_xdit.messages import one_line

__all__ = [
    "HOOKS",
    "compared",
    "family_of",
    "own_pipeline",
    "refuse_left_out",
    "refuse_untested",
    "refuse_untested_model",
    "wrapper_class",
]


def family_of(pipeline: str) -> XfuserFamily:
    """The family of a class of diffusers' pipelines, which was compared."""
    return next(each for each in FAMILIES.values() if pipeline in {known.name for known in each.pipelines})


def compared() -> list[str]:
    """The pipelines that were compared with one process, in alphabetical order."""
    return sorted(pipeline.name for family in FAMILIES.values() for pipeline in family.pipelines)


def own_pipeline(pipeline: str) -> OwnPipeline | None:
    """Xfuser's own pipeline around one of diffusers', where it has one that was compared."""
    own = (each for family in FAMILIES.values() for each in family.own)
    return next((each for each in own if each.runs == pipeline), None)


def refuse_untested_model(runner: type, model: str, degree: int) -> None:
    """Refuse a model of the `xdit` command that was not compared, or cannot be.

    Args:
        runner: xfuser's class for it.
        model: Its name.
        degree: The TokenRing degree.

    Raises:
        UnsupportedError: It was not, and the degree is more than 1.
    """
    if degree == 1 or runner.__name__ in {name for family in FAMILIES.values() for name in family.runners}:
        return
    known = RUNNERS_REFUSED.get(runner.__name__)
    if known is not None:
        raise UnsupportedError(f"tokenring_degree={degree} was asked for with {model}: {known.why}. {known.instead}")
    raise UnsupportedError(
        f"tokenring_degree={degree} was asked for with {model}, which has not been compared with the single process "
        "yet. Use ulysses_degree or ring_degree for it"
    )


def refuse_untested_models(base_model: Any) -> None:
    """Refuse other models of the `xdit` command by name, before their weights are loaded."""

    def make(original: Any) -> Any:
        def validate_config(self: Any, config: Any) -> None:
            refuse_untested_model(type(self), config.model, tokenring_degree_of(config))
            original(self, config)

        return validate_config

    replace_method(base_model.xFuserModel, "_validate_config", make)


def refuse_untested_pipelines(runtime_state: Any) -> None:
    """Refuse other pipelines when xfuser makes its runtime state for one, before anything is computed.

    xfuser 0.7.0 shards several models in ways that are wrong for some lengths; until a model has been
    compared with the single process it may be one of them.
    """

    def make(original: Any) -> Any:
        def check(self: Any, pipeline: Any, parallel_config: Any) -> None:
            if choice_of(parallel_config) is not None:
                transformer = getattr(getattr(pipeline, "module", pipeline), "transformer", None)
                if not _made_by_command(pipeline_name(pipeline), transformer):
                    refuse_untested(pipeline)
                    refuse_left_out(transformer, family_of(pipeline_name(pipeline)))
                refuse_ulysses(parallel_config.ulysses_degree, heads_of(getattr(transformer, "config", {})))
                staged = sorted(own.runs for family in FAMILIES.values() for own in family.own if own.stages)
                if parallel_config.pp_degree > 1 and pipeline_name(pipeline) not in staged:
                    raise UnsupportedError(
                        f"PipeFusion together with TokenRing was not compared for {pipeline_name(pipeline)}, only for "
                        f"{', '.join(staged)}. Use pipefusion_parallel_degree=1"
                    )
            original(self, pipeline, parallel_config)

        return check

    replace_method(runtime_state.DiTRuntimeState, "_check_model_and_parallel_config", make)


def refuse_untested(pipeline: Any, asked: str = "TokenRing", instead: str | None = None) -> None:
    """Refuse a pipeline that was not compared.

    Args:
        pipeline: The pipeline, or xfuser's around it.
        asked: What was asked for.
        instead: What to do, as a sentence; by default to use another degree of xfuser's.

    Raises:
        UnsupportedError: It was not.
    """
    name = pipeline_name(pipeline)
    known = PIPELINES_REFUSED.get(name)
    if known is not None:
        raise UnsupportedError(f"{asked} was asked for in {name}: {known.why}. {instead or known.instead}")
    if name not in compared():
        raise UnsupportedError(
            f"{asked} was asked for in {name}, which has not been compared with the single process yet. "
            f"Compared so far: {', '.join(compared())}. "
            f"{instead or 'Use ulysses_degree or ring_degree for it'}"
        )


def refuse_left_out(transformer: Any, family: XfuserFamily) -> None:
    """Refuse a transformer with a module that xfuser's forward never calls.

    Args:
        transformer: The model, or ``None``.
        family: What is known of it.

    Raises:
        UnsupportedError: It has one.
    """
    for name, _ in () if transformer is None or not family.left_out else transformer.named_modules():
        found = family.left_out.get(name.rpartition(".")[2])
        if found is not None:
            what, instead = found
            raise UnsupportedError(f"{what}: {instead}")


def _made_by_command(pipeline: str, transformer: Any) -> bool:
    """Whether a pipeline is one that `xdit` makes around a wrapper, and that is compared in no other form."""
    kind = type(transformer).__name__
    wrappers = (each.wrapper for each in FAMILIES.values() if pipeline in each.by_command)
    return any(wrapper is not None and wrapper.endswith(f":{kind}") for wrapper in wrappers)


def wrapper_class(wrapper: str) -> Any:
    """Xfuser's subclass of a transformer's class, by ``module:name`` of it, or of a function that makes it.

    Raises:
        UnsupportedError: It needs what the installed diffusers does not have.
    """
    try:
        found = pkgutil.resolve_name(wrapper)
        return found if isinstance(found, type) else found()
    except ImportError as error:
        raise UnsupportedError(
            f"xfuser {version('xfuser')} cannot shard this model with diffusers {version('diffusers')} "
            f"({one_line(str(error).partition(' (')[0])}): use a newer diffusers, or the pipeline without parallelize"
        ) from error


HOOKS = {
    "xfuser.core.distributed.runtime_state": refuse_untested_pipelines,
    "xfuser.model_executor.models.runner_models.base_model": refuse_untested_models,
}
