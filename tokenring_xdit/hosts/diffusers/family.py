"""What is known of a family of models that diffusers shards. A record is data: nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenring_xdit.hosts.base import ModelFamily

__all__ = ["DiffusersFamily", "Gather", "Plan", "Split"]


@dataclass(frozen=True)
class Split:
    """A tensor of which each rank takes its part.

    Attributes:
        dim: The dimension that is the sequence.
        dims: How many dimensions it has to have; with others it is left whole.
        once: Whether only the first module of a call that has it takes a part, and the others have that already.
        parts: Names of the sequences that it is one behind the other, each of which is cut by itself; one by default.
        for_all: Whether there may be one entry for all tokens, which is left whole.
    """

    dim: int
    dims: int | None = None
    once: bool = False
    parts: tuple[str, ...] = ()
    for_all: bool = False


@dataclass(frozen=True)
class Gather:
    """An output of which all ranks get the whole.

    Attributes:
        dim: The dimension that is the sequence.
        of: The argument that was cut, of which this is what came out.
    """

    dim: int
    of: str = "hidden_states"


Plan = Mapping[str, "Mapping[str | int, Split | tuple[Split, ...]] | Gather"]
"""Where a model is cut and gathered, by module: its arguments by name, or its outputs by number, or its one output.

As diffusers' own ``_cp_plan``: the model itself is ``""``, and ``blocks.*`` is each of a list.
"""


@dataclass(frozen=True, kw_only=True)
class DiffusersFamily(ModelFamily):
    """All that is known of a family of models that diffusers shards.

    Attributes:
        transformer: Class of its transformer.
        compared: Classes of pipelines that were compared with one process, with those of ``pipelines``.
        spread: Attention that reaches the tokens of all ranks: modules, as in :data:`Plan`, each with the classes of
            processors that were compared.
        local: Attention that needs no other rank's tokens, in the same way.
        plan: Where it is cut; ``None`` leaves that to diffusers.
        since: The oldest diffusers with which it was compared: older ones cut, and mask, otherwise.
        control: What a ControlNet or an adapter hands to its forward, by argument or by key of the arguments of
            attention, and how it is cut: residuals of a picture's tokens as the picture is; ``None`` leaves it whole.
        refused: Arguments of its forward that were not compared, unless they are ``None`` or ``False``.
        absent_if_zero: Arguments of its forward whose tokens it hides where all of them are zero.
        pair_masks: Whether its masks are for pairs of tokens, of which both have to be real. One of bool hides the
            others, one of numbers is added to the scores.
        each_item: Whether its processors attend each item of a batch by itself, with the text that the argument
            ``encoder_attention_mask`` leaves of it.
        no_attention: Argument of its processors with which they compute none.
        whole_keys: Argument of its processors with what an adapter attends to beside all tokens, one after the other:
            every rank has the whole of each.
        config: Settings of its configuration, with the values that were compared.
    """

    transformer: str
    compared: tuple[str, ...]
    spread: Mapping[str, tuple[str, ...]]
    local: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plan: Plan | None = None
    since: str = "0.42"
    control: Mapping[str, Split | None] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    absent_if_zero: tuple[str, ...] = ()
    pair_masks: bool = False
    each_item: bool = False
    no_attention: str = ""
    whole_keys: str = ""
    config: Mapping[str, tuple[object, ...]] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Classes of pipelines that were compared."""
        return {*self.compared, *(pipeline.name for pipeline in self.pipelines)}
