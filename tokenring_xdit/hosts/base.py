"""What a host library gives, and what it gets: the protocol that every folder beside this module follows.

A host gives the models that it can shard (:class:`ModelFamily`, a record in a file of its own, of which nothing here
imports torch), the names of other libraries that it relies on (:class:`ReliedOn`), and for what a user asks of it a
:class:`Host`: what it refuses, how it cuts a model's sequence and has attention computed by TokenRing. A host of
pipelines is a :class:`PipelineHost`.

It gets, from this package and never from another host: :class:`~tokenring_xdit.parallel.ParallelDims`;
:func:`~tokenring_xdit.attention.token_ring_attention`; which keys are real (:mod:`~tokenring_xdit.hosts.layout`); the
agreement of all ranks on arguments, inputs and results (:mod:`~tokenring_xdit.hosts.agreement`) and on weights
(:mod:`~tokenring_xdit.hosts.weights`); refusals of what was done to a model (:mod:`~tokenring_xdit.hosts.changes`,
:mod:`~tokenring_xdit.hosts.processors`, :mod:`~tokenring_xdit.hosts.refusals`); a call that is one of all ranks
(:mod:`~tokenring_xdit.hosts.calls`); and, for what it replaces in other libraries, one
:mod:`~tokenring_xdit.hosts.installation` that can be listed and undone.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from tokenring_xdit.model_shapes import ModelShape

if TYPE_CHECKING:
    import torch

__all__ = ["Host", "ModelFamily", "Offer", "Pipeline", "PipelineHost", "ReliedOn", "Shard", "discovered"]


@dataclass(frozen=True)
class ReliedOn:
    """A name of another library that has to exist.

    Attributes:
        module: Module that defines it.
        path: Attribute path inside the module.
        use: What this package does with it.
        parameters: Names of parameters that a callable has to have.
    """

    module: str
    path: str
    use: str
    parameters: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """What is wrong with the name in the installed release, or ``None``."""
        try:
            value: object = importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} cannot be imported: {error}"
        for part in self.path.split("."):
            if _annotated(value, part):
                return None  # set by instances
            if not hasattr(value, part):
                return f"{self.module} has no {self.path}"
            value = getattr(value, part)
        if self.parameters and callable(value):
            missing = set(self.parameters) - set(inspect.signature(value).parameters)
            if missing:
                return f"{self.module}.{self.path} lost the parameters {sorted(missing)}"
        return None


def _annotated(owner: object, name: str) -> bool:
    classes = owner.__mro__ if isinstance(owner, type) else ()
    return not hasattr(owner, name) and any(name in vars(c).get("__annotations__", {}) for c in classes)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A class of pipelines (or of models that are called by themselves) that was compared with one process.

    Attributes:
        name: Name of the class.
        spellings: What its call names fields of a request, where it is not what most pipelines do.
        each_prompt: Options of its call of which a list means one for each prompt.
        image: What its call names the picture that it starts from, or is controlled by.
        needs_picture: Whether it makes nothing without one, although its call has a default for it.
        needs: Further options of its call without which it makes nothing, although they have a default: a mask, say.
        references: Whether a list of pictures is for each prompt, which is to look at all of them, instead of one for
            each prompt.
        one_prompt: Whether a call takes no more than one prompt, or makes something of the first alone.
        whole_video: Whether a video that it is given has as many frames as it makes.
        multiple: Pixels that width and height have to be multiples of, whichever model it is; 1 where that depends on
            the model.
        packed: Whether its latents are a sequence of tokens, of which ``_unpack_latents`` makes a picture.
    """

    name: str
    spellings: Mapping[str, str] = field(default_factory=dict)
    each_prompt: tuple[str, ...] = ()
    image: str = "image"
    needs_picture: bool = False
    needs: tuple[str, ...] = ()
    references: bool = False
    one_prompt: bool = False
    whole_video: bool = False
    multiple: int = 1
    packed: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """All that is known of a family of models, in one record.

    Attributes:
        pipelines: Its classes.
        shapes: How much attention its models are, by the names that the planner takes.
        heads: What the configuration of its transformer names the number of query heads.
        relied_on: Names of other libraries that are used for this family alone.
    """

    pipelines: tuple[Pipeline, ...]
    shapes: Mapping[str, ModelShape] = field(default_factory=dict)
    heads: str = "num_attention_heads"
    relied_on: tuple[ReliedOn, ...] = ()


@dataclass(frozen=True)
class Offer:
    """What a host answers where several could spread a pipeline over ranks.

    Attributes:
        repairs: How many faults of the host library are repaired for it to be exact.
        refusal: Why it cannot, in a clause; ``None`` where it can.
        installed: Whether the library is there at all.
    """

    repairs: int = 0
    refusal: str | None = None
    installed: bool = True


def discovered(package: str, path: list[str]) -> dict[str, Any]:
    """The records of a package that has one in each of its modules, as ``FAMILY``.

    Args:
        package: Its name.
        path: Its ``__path__``.

    Returns:
        By the modules' names, in alphabetical order.
    """
    names = sorted(module.name for module in iter_modules(path))
    return {name: importlib.import_module(f"{package}.{name}").FAMILY for name in names}


class Shard(Protocol):
    """What a host keeps with a model that all ranks compute together."""

    def check(self, model: Any) -> None:
        """Refuse what was done to the model and was not compared.

        Raises:
            UnsupportedError: Something was.
        """

    def checked(self) -> AbstractContextManager[None]:
        """Inside, the model has been checked as a whole, and calls of it need not do so again."""

    def weights(self) -> dict[str, str]:
        """Digests of the model's parts, which all ranks have to have alike."""


class Host(Protocol):
    """A host library as it was asked for: with degrees and whatever options it has; a model is what it spreads."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What was asked for, in words, by the names of the arguments: the same on all ranks."""

    def refuse(self, model: Any) -> None:
        """Refuse what was not compared, or does not fit the degrees, before anything is changed.

        Args:
            model: The model, or the pipeline with its models, as it was loaded on this rank.

        Raises:
            TokenRingError: In one sentence: what was asked for, why not, what to use instead.
        """

    def spread(self, model: Any) -> None:
        """Have all ranks compute the model together from now on: each has a part of the sequence.

        All ranks call it. Wherever the library computes attention over the sequence, it is TokenRing's over the
        parts of all ranks; whole inputs go in and whole outputs come out on every rank.
        """


class PipelineHost(Host, Protocol):
    """A host of pipelines: a call of one becomes a call of all ranks (:mod:`~tokenring_xdit.hosts.calls`)."""

    def models(self, pipe: Any) -> Mapping[str, Any]:
        """The models of a pipeline that are shared out, by what the pipeline calls them."""

    def shard_of(self, name: str, model: Any) -> Shard:
        """What the host keeps with one of them.

        Raises:
            UnsupportedError: It is not shared out, as it was exchanged since.
        """

    def activate(self, pipe: Any) -> None:
        """Make this what the library's attention looks at from now on; several may live in one process."""

    def device(self, pipe: Any) -> torch.device:
        """Where the pipeline computes on this rank."""
