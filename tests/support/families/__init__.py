"""Small pipelines of the true architecture: random weights, text encoders and VAE included, nothing downloaded.

:data:`FAMILIES` names them; each knows how xfuser runs it. Tests and ``docs/support.md`` share them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import version
from typing import Any

from packaging.version import Version

__all__ = ["FAMILIES", "Entry", "Family"]

_WRAPPERS = "xfuser.model_executor.models.transformers."


class Entry(Enum):
    """How xfuser runs a family."""

    PIPELINE = "a pipeline of xfuser's around the diffusers one"
    TRANSFORMER = "the diffusers pipeline with xfuser's transformer, as its `xdit` command does"


@dataclass(frozen=True)
class Family:
    """One kind of pipeline.

    Attributes:
        title: Name in the support matrix.
        module: Module of this package that makes it.
        name: Its functions are ``make_<name>`` and ``<name>_inputs``.
        entry: How xfuser runs it.
        wrapper: xfuser's class, as ``module:name``.
        pixels: Side of a token in pixels.
        by_rows: Whether xfuser cuts its latents by rows, whose number has to divide then.
        text_tokens: Whether the length of its text can be chosen.
        variant: Options of the pipeline that make it this family.
        pipeline: xfuser's own subclass of the diffusers pipeline, as ``module:name``, where `xdit` has one.
        since: The diffusers with which it first runs, in one process and under xfuser.
    """

    title: str
    module: str
    name: str
    entry: Entry
    wrapper: str
    pixels: int = 4
    by_rows: bool = False
    text_tokens: bool = True
    variant: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    since: str = "0.35"

    @property
    def missing(self) -> bool:
        """Whether the installed diffusers is too old for it."""
        return Version(version("diffusers")) < Version(self.since)

    def make(self, **options: Any) -> Any:
        """The diffusers pipeline."""
        return self._function(f"make_{self.name}")(**{**self.variant, **options})

    def inputs(self, **options: Any) -> dict[str, Any]:
        """Arguments of a call that returns latents."""
        arguments: dict[str, Any] = self._function(f"{self.name}_inputs")(**options)
        return arguments

    def wrapper_class(self) -> Any:
        """The class of xfuser's."""
        return pkgutil.resolve_name(self.wrapper)

    def pipeline_class(self) -> Any:
        """Xfuser's subclass of the diffusers pipeline; ``None`` where the latter runs as it is."""
        return pkgutil.resolve_name(self.pipeline) if self.pipeline else None

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{self.module}"), name)
        return function


def _pipeline(title: str, module: str, name: str, wrapper: str, **traits: Any) -> Family:
    return Family(title, module, name, Entry.PIPELINE, wrapper, **traits)


def _transformer(title: str, module: str, name: str, wrapper: str, **traits: Any) -> Family:
    return Family(title, module, name, Entry.TRANSFORMER, _WRAPPERS + wrapper, **traits)


_FLUX1 = "transformer_flux:xFuserFlux1Transformer2DWrapper"
_FLUX2 = "transformer_flux2:xFuserFlux2Transformer2DWrapper"
_SD3 = "xfuser:xFuserStableDiffusion3Pipeline"
_WAN = "transformer_wan:xFuserWanTransformer3DWrapper"

FAMILIES: dict[str, Family] = {
    "flux": _pipeline("FLUX.1", "flux", "flux", "xfuser:xFuserFluxPipeline"),
    "flux-runner": _transformer("FLUX.1 (`xdit`)", "flux", "flux", _FLUX1),
    "flux-control": _pipeline(
        "FLUX.1 control",
        "flux",
        "flux_control",
        "xfuser.model_executor.pipelines.pipeline_flux_control:xFuserPipelineFluxControlPipeline",
    ),
    "flux2": _transformer("FLUX.2 (`xdit`)", "flux2", "flux2", _FLUX2, since="0.37"),
    "flux2-klein": _transformer("FLUX.2 klein (`xdit`)", "flux2", "flux2_klein", _FLUX2, since="0.37"),
    "sd3": _pipeline("SD3, SD3.5 large", "sd3", "sd3", _SD3, by_rows=True, text_tokens=False),
    "sd3.5-medium": _pipeline(
        "SD3.5 medium", "sd3", "sd3", _SD3, by_rows=True, text_tokens=False, variant={"dual": True}
    ),
    "pixart-alpha": _pipeline(
        "PixArt alpha", "pixart", "pixart_alpha", "xfuser:xFuserPixArtAlphaPipeline", by_rows=True
    ),
    "pixart-sigma": _pipeline(
        "PixArt sigma", "pixart", "pixart_sigma", "xfuser:xFuserPixArtSigmaPipeline", by_rows=True
    ),
    "hunyuan-dit": _pipeline(
        "HunyuanDiT",
        "hunyuan_dit",
        "hunyuan_dit",
        "xfuser:xFuserHunyuanDiTPipeline",
        pixels=16,
        by_rows=True,
        text_tokens=False,
        since="0.41",
    ),
    "qwen-image": _transformer(
        "Qwen-Image (`xdit`)",
        "qwen_image",
        "qwen_image",
        "transformer_qwen:xFuserQwenImageTransformerWrapper",
        since="0.37",
    ),
    "z-image": _transformer(
        "Z-Image (`xdit`)",
        "z_image",
        "z_image",
        "transformer_z_image:xFuserZImageTransformer2DWrapper",
        since="0.36",
    ),
    "lumina2": _pipeline("Lumina-Image 2.0", "lumina2", "lumina2", "xfuser:xFuserLumina2Pipeline", pixels=16),
    "cogvideox": _pipeline(
        "CogVideoX", "cogvideox", "cogvideox", "xfuser:xFuserCogVideoXPipeline", pixels=16, by_rows=True
    ),
    "latte": _pipeline(
        "Latte", "latte", "latte", "xfuser:xFuserLattePipeline", pixels=16, by_rows=True, text_tokens=False
    ),
    "wan-t2v": _transformer("Wan 2.1 text to video (`xdit`)", "wan", "wan_t2v", _WAN, pixels=16),
    "wan-a14b": _transformer("Wan 2.2 A14B (`xdit`)", "wan", "wan_t2v", _WAN, pixels=16, variant={"two_stages": True}),
    "wan-i2v": _transformer(
        "Wan 2.1 image to video (`xdit`)",
        "wan",
        "wan_i2v",
        _WAN,
        pixels=16,
        text_tokens=False,
        pipeline="xfuser.model_executor.pipelines.pipeline_wan_i2v:xFuserWanImageToVideoPipeline",
    ),
    "wan-ti2v": _transformer("Wan 2.2 TI2V (`xdit`)", "wan", "wan_ti2v", _WAN, pixels=32),
    "hunyuan-video": _transformer(
        "HunyuanVideo (`xdit`)",
        "hunyuan_video",
        "hunyuan_video",
        "transformer_hunyuan_video:xFuserHunyuanVideoTransformer3DWrapper",
        pixels=16,
    ),
    "ltx2": _transformer(
        "LTX-2 (`xdit`)",
        "ltx2",
        "ltx2",
        "transformer_ltx2:xFuserLTX2VideoTransformer3DWrapper",
        pixels=32,
        text_tokens=False,
        since="0.37",
    ),
}
