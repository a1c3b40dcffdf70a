"""Kinds of small pipelines of diffusers: those of :data:`ALL_FAMILIES`, and families that xfuser does not have."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.families import ALL_FAMILIES, Family

__all__ = ["ONLY_DIFFUSERS", "Small", "known"]


@dataclass(frozen=True)
class Small:
    """One kind of pipeline.

    Attributes:
        title: Name in the tables.
        family: Key of the family whose sizes it has.
        runs: The class of diffusers' pipeline.
        make: Makes it, with the options of the family.
        inputs: Arguments of a call that returns latents, with the options of the family.
        prompts: Whether it takes several.
    """

    title: str
    family: str
    runs: str
    make: Callable[..., Any]
    inputs: Callable[..., dict[str, Any]]
    prompts: bool = True


def _alone(title: str, name: str, runs: str) -> Small:
    """A family that xfuser does not have, in a module of its name."""

    def function(kind: str) -> Any:
        return getattr(importlib.import_module(f"tests.support.families.{name}"), kind)

    def make(**options: Any) -> Any:
        return function(f"make_{name}")(**options)

    def inputs(**options: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = function(f"{name}_inputs")(**options)
        return arguments

    return Small(title, name.replace("_", "-"), runs, make, inputs)


ONLY_DIFFUSERS: dict[str, Small] = {
    "ltx": _alone("LTX-Video", "ltx", "LTXPipeline"),
    "chroma": _alone("Chroma", "chroma", "ChromaPipeline"),
    "aura-flow": _alone("AuraFlow", "aura_flow", "AuraFlowPipeline"),
    "cogview4": _alone("CogView4", "cogview4", "CogView4Pipeline"),
    "skyreels-v2": _alone("SkyReels V2", "skyreels_v2", "SkyReelsV2Pipeline"),
    "mochi": _alone("Mochi", "mochi", "MochiPipeline"),
    "bria": _alone("Bria", "bria", "BriaPipeline"),
    "chronoedit": _alone("ChronoEdit", "chronoedit", "ChronoEditPipeline"),
}
"""Families that xfuser does not have."""


def known(key: str) -> Family | Small:
    """The family that a key names."""
    return ALL_FAMILIES.get(key) or ONLY_DIFFUSERS[key]
