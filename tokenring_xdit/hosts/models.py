"""What is known of models, whichever host library shards them: gathered from the records of all hosts.

A host is a folder beside this module; its records are in its package ``families``. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.hosts.base import ModelFamily, Pipeline
from tokenring_xdit.messages import shown
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["families", "model_shape", "model_shapes", "pipeline_named", "pipelines", "usual_shape"]

_FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def families() -> tuple[ModelFamily, ...]:
    """The records of all hosts."""
    hosts = sorted(module.name for module in iter_modules([str(_FOLDER)]) if module.ispkg)
    packages = (f"{__package__}.{host}.families" for host in hosts if (_FOLDER / host / "families").is_dir())
    return tuple(family for package in packages for family in import_module(package).FAMILIES.values())


@lru_cache(maxsize=1)
def pipelines() -> Mapping[str, Pipeline]:
    """All classes of pipelines that were compared, by name."""
    found = {pipeline.name: pipeline for family in families() for pipeline in family.pipelines}
    return MappingProxyType(dict(sorted(found.items())))


def pipeline_named(name: str) -> Pipeline:
    """What is known of a class of pipelines; of one that was not compared, what holds for most."""
    return pipelines().get(name) or Pipeline(name=name)


@lru_cache(maxsize=1)
def model_shapes() -> Mapping[str, ModelShape]:
    """How much attention models are, by the names that ``tokenring-xdit plan --model`` takes."""
    return MappingProxyType({name: shape for family in families() for name, shape in family.shapes.items()})


def usual_shape(pipeline: str) -> ModelShape | None:
    """The attention of the first model of a pipeline's family; ``None`` where none is written down."""
    found = (family.shapes for family in families() if pipeline in {each.name for each in family.pipelines})
    return next((shape for shapes in found for shape in shapes.values()), None)


def model_shape(name: str) -> ModelShape:
    """The attention of a model.

    Raises:
        ConfigurationError: There is no such model.
    """
    known = model_shapes()
    if name not in known:
        raise ConfigurationError(f"there is no model {shown(name)} to plan for. {nearest(name, known)}")
    return known[name]
