"""What is known of a family of models that xfuser shards. A record is data: nothing here imports torch or xfuser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tokenring_xdit.hosts.base import ModelFamily, ReliedOn

__all__ = ["PIPELINES", "PROCESSORS", "TRANSFORMERS", "OwnPipeline", "Shares", "TokenCut", "XfuserFamily"]

TRANSFORMERS = "xfuser.model_executor.models.transformers."
PIPELINES = "xfuser.model_executor.pipelines."
PROCESSORS = "xfuser.model_executor.layers.attention_processor"


class Shares(Enum):
    """What a rank holds of the latents in one of xfuser's own pipelines (:mod:`.repairs.latents`)."""

    ROWS = "rows"
    TOKENS = "tokens"
    WHOLE = "all of them"


@dataclass(frozen=True, kw_only=True)
class OwnPipeline:
    """A pipeline of xfuser's own around one of diffusers.

    Attributes:
        runs: The class of diffusers.
        module: xfuser's module, below :data:`PIPELINES`.
        name: xfuser's class.
        shares: What a rank holds of the latents.
        any_rows: Whether its tokens are padded, so that rows of them need not divide by the ranks.
        guidance_of_one: Whether it is right without classifier-free guidance.
        rescaled_guidance: Whether it is right with guidance that is rescaled by its spread over the picture.
        stages: Whether it was compared together with PipeFusion.
        patches: Whether that was done for stages that work at once, each on another patch.
        switches: Attributes that callbacks set, and that diffusers looks at in each step and xfuser does not.
    """

    runs: str
    module: str
    name: str
    shares: Shares
    any_rows: bool = False
    guidance_of_one: bool = True
    rescaled_guidance: bool = True
    stages: bool = False
    patches: bool = True
    switches: tuple[str, ...] = ("_guidance_scale",)

    @property
    def path(self) -> str:
        """Where the class is, as ``module:name``."""
        return f"{PIPELINES}{self.module}:{self.name}"


@dataclass(frozen=True, kw_only=True)
class TokenCut:
    """Where a transformer of diffusers is cut by tokens (:mod:`.tokens`).

    Attributes:
        transformer: Its class.
        blocks: Lists of blocks that work on this rank's tokens.
        whole_again: The module whose input is gathered.
        attention: Self-attention in those blocks: modules by name, with the processors that were compared.
        other_attention: Attention of those blocks that needs no other rank's tokens, in the same way.
        joint_text: Whether text takes part in self-attention, and so is cut too.
        text_first: Whether attention has it in front of the other tokens.
        rotary: The blocks' argument that holds a position for each token.
        local_blocks: Lists of blocks that attend within one token's place only (over time).
        without_text: Self-attention that text takes no part in.
        spread: xfuser's processor for self-attention, as ``module:name``, where diffusers' own, which run otherwise,
            would expand grouped heads of keys before they are sent.
        real: What says which tokens of the whole sequence are real, as ``module:name``, from the model and a call's
            arguments, in calls in which the blocks are not told; it gives ``None`` in others.
    """

    transformer: str
    blocks: tuple[str, ...]
    whole_again: str
    attention: Mapping[str, tuple[str, ...]]
    other_attention: Mapping[str, tuple[str, ...]]
    joint_text: bool = False
    text_first: bool = False
    rotary: str | None = None
    local_blocks: tuple[str, ...] = ()
    without_text: tuple[str, ...] = ()
    spread: str | None = None
    real: str | None = None


@dataclass(frozen=True, kw_only=True)
class XfuserFamily(ModelFamily):
    """All that is known of a family of models that xfuser shards.

    Attributes:
        wrapper: xfuser's class of its transformer, as ``module:name``.
        cut: Where diffusers' own transformer is cut instead.
        controls: Arguments of its transformer that control it, and were compared.
        own: Pipelines of xfuser's own.
        runners: Classes of xfuser's `xdit` command that load one of its pipelines, with a transformer of the compared
            form.
        by_command: Classes of pipelines that are compared as `xdit` makes them, around the wrapper, and not spread by
            ``parallelize``.
        lora: Transformers that scale a LoRA for one call wrongly, as ``module:name``, each with the argument of its
            forward that the scale comes in.
        repairs: Module beside the record with ``HOOKS``: modules of xfuser, each with what is done to it right after
            it has been imported. It is imported when TokenRing attaches itself to xfuser.
        attention: Functions that compute its attention, those of xfuser and of diffusers, as ``module:name``.
        left_out: Modules that some transformers of it have and xfuser never calls, by the end of their names, each with
            what they are, in a clause, and what to use instead.
    """

    wrapper: str | None = None
    cut: TokenCut | None = None
    controls: tuple[str, ...] = ()
    own: tuple[OwnPipeline, ...] = ()
    runners: tuple[str, ...] = ()
    by_command: tuple[str, ...] = ()
    lora: Mapping[str, str] = field(default_factory=dict)
    repairs: str | None = None
    attention: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def names(self) -> Iterator[ReliedOn]:
        """Names of xfuser that are used for this family alone, those that follow from the record among them."""
        yield from self.relied_on
        for pipeline in self.own:
            module = PIPELINES + pipeline.module
            yield ReliedOn(module, f"{pipeline.name}.__call__", "made one call of all ranks")
            if pipeline.stages:
                use = "refuses what PipeFusion was not compared with"
                yield ReliedOn(module, f"{pipeline.name}._sync_pipeline", use, ("sync_only",))
        for path in self.lora:
            module, _, name = path.partition(":")
            yield ReliedOn(module, f"{name}.forward", "scales a LoRA for the call")
        for path in self.attention:
            module, _, name = path.partition(":")
            yield ReliedOn(module, name, "timed by sweeps of whole pipelines")
