"""Small pipelines of the true architecture: random weights, text encoders and VAE included, nothing downloaded.

:data:`ALL_FAMILIES` names them; each knows how xfuser runs it. Tests and ``docs/support.md`` share them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from tokenring_xdit.hosts.xfuser.family import OwnPipeline, Shares
from tokenring_xdit.hosts.xfuser.supported import family_of, own_pipeline, wrapper_class

__all__ = ["ALL_FAMILIES", "FAMILIES", "Entry", "Family"]


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
        runs: The class of diffusers' pipeline, by which the package's record of it is found.
        pixels: Side of a token in pixels.
        text_tokens: Whether the length of its text can be chosen.
        variant: Options of the pipeline that make it this family.
        pipeline: xfuser's own subclass of the diffusers pipeline, as ``module:name``, where `xdit` has one.
        one_prompt: Whether its call takes no more than one.
        since: The diffusers with which it first runs, in one process and under xfuser.
    """

    title: str
    module: str
    name: str
    entry: Entry
    runs: str
    pixels: int = 4
    text_tokens: bool = True
    variant: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    one_prompt: bool = False
    since: str = "0.35"

    @property
    def prompts(self) -> bool:
        """Whether its call takes several."""
        return not self.one_prompt

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

    @property
    def own(self) -> OwnPipeline | None:
        """What is known of xfuser's own pipeline, where it runs in that."""
        return own_pipeline(self.runs) if self.entry is Entry.PIPELINE else None

    @property
    def by_rows(self) -> bool:
        """Whether xfuser cuts its latents by rows, whose number has to divide then."""
        return self.own is not None and self.own.shares is Shares.ROWS

    def wrapper_class(self) -> Any:
        """The class of xfuser's, of the pipeline or of the transformer."""
        wrapper = family_of(self.runs).wrapper if self.own is None else self.own.path
        assert wrapper is not None
        return wrapper_class(wrapper)

    def pipeline_class(self) -> Any:
        """Xfuser's subclass of the diffusers pipeline; ``None`` where the latter runs as it is."""
        if not self.pipeline:
            return None
        module, _, name = self.pipeline.partition(":")
        found = importlib.import_module(module)
        if hasattr(found, name):
            return getattr(found, name)
        (maker,) = [each for each in dir(found) if each.startswith("get_") and each.endswith("_pipeline_class")]
        return getattr(found, maker)()

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{self.module}"), name)
        return function


def _pipeline(title: str, module: str, name: str, runs: str, **traits: Any) -> Family:
    return Family(title, module, name, Entry.PIPELINE, runs, **traits)


def _transformer(title: str, module: str, name: str, runs: str, **traits: Any) -> Family:
    return Family(f"{title} (`xdit`)", module, name, Entry.TRANSFORMER, runs, **traits)


def _ltx2(title: str, name: str, runs: str, **traits: Any) -> Family:
    return _transformer(title, "ltx2", name, runs, pixels=32, text_tokens=False, since="0.42", **traits)


_SD3 = "StableDiffusion3Pipeline"

FAMILIES: dict[str, Family] = {
    "flux": _pipeline("FLUX.1", "flux", "flux", "FluxPipeline"),
    "flux-runner": _transformer("FLUX.1", "flux", "flux", "FluxPipeline"),
    "flux-control": _pipeline("FLUX.1 control", "flux", "flux_control", "FluxControlPipeline"),
    "flux2": _transformer("FLUX.2", "flux2", "flux2", "Flux2Pipeline", since="0.37"),
    "flux2-klein": _transformer("FLUX.2 klein", "flux2", "flux2_klein", "Flux2KleinPipeline", since="0.37"),
    "sd3": _pipeline("SD3, SD3.5 large", "sd3", "sd3", _SD3, text_tokens=False),
    "sd3.5-medium": _pipeline("SD3.5 medium", "sd3", "sd3", _SD3, text_tokens=False, variant={"dual": True}),
    "pixart-alpha": _pipeline("PixArt alpha", "pixart", "pixart_alpha", "PixArtAlphaPipeline"),
    "pixart-sigma": _pipeline("PixArt sigma", "pixart", "pixart_sigma", "PixArtSigmaPipeline"),
    "hunyuan-dit": _pipeline(
        "HunyuanDiT", "hunyuan_dit", "hunyuan_dit", "HunyuanDiTPipeline", pixels=16, text_tokens=False, since="0.41"
    ),
    "qwen-image": _transformer("Qwen-Image", "qwen_image", "qwen_image", "QwenImagePipeline", since="0.37"),
    "z-image": _transformer("Z-Image", "z_image", "z_image", "ZImagePipeline", since="0.36"),
    "lumina2": _pipeline("Lumina-Image 2.0", "lumina2", "lumina2", "Lumina2Pipeline", pixels=16),
    "cogvideox": _pipeline("CogVideoX", "cogvideox", "cogvideox", "CogVideoXPipeline", pixels=16),
    "latte": _pipeline("Latte", "latte", "latte", "LattePipeline", pixels=16, text_tokens=False),
    "wan-t2v": _transformer("Wan 2.1 text to video", "wan", "wan_t2v", "WanPipeline", pixels=16),
    "wan-a14b": _transformer("Wan 2.2 A14B", "wan", "wan_t2v", "WanPipeline", pixels=16, variant={"two_stages": True}),
    "wan-i2v": _transformer(
        "Wan 2.1 image to video",
        "wan",
        "wan_i2v",
        "WanImageToVideoPipeline",
        pixels=16,
        text_tokens=False,
        pipeline="xfuser.model_executor.pipelines.pipeline_wan_i2v:xFuserWanImageToVideoPipeline",
    ),
    "wan-ti2v": _transformer("Wan 2.2 TI2V", "wan", "wan_ti2v", "WanPipeline", pixels=32),
    "hunyuan-video": _transformer("HunyuanVideo", "hunyuan_video", "hunyuan_video", "HunyuanVideoPipeline", pixels=16),
    "ltx2": _transformer("LTX-2", "ltx2", "ltx2", "LTX2Pipeline", pixels=32, text_tokens=False, since="0.37"),
}
"""Those that a prompt is enough for: what people do with pipelines is tried with each of them."""

ALL_FAMILIES: dict[str, Family] = {
    **FAMILIES,
    "flux-kontext": _transformer("FLUX.1 Kontext", "flux", "flux_kontext", "FluxKontextPipeline"),
    "qwen-edit": _transformer(
        "Qwen-Image-Edit",
        "qwen_image",
        "qwen_image_edit",
        "QwenImageEditPipeline",
        pipeline="xfuser.model_executor.pipelines.pipeline_qwen_image_edit:xFuserQwenImageEditPipeline",
        since="0.37",
    ),
    "qwen-edit-2509": _transformer(
        "Qwen-Image-Edit 2509, two pictures",
        "qwen_image",
        "qwen_image_edit_plus",
        "QwenImageEditPlusPipeline",
        one_prompt=True,
        since="0.37",
    ),
    "qwen-edit-2511": _transformer(
        "Qwen-Image-Edit 2511, two pictures",
        "qwen_image",
        "qwen_image_edit_plus",
        "QwenImageEditPlusPipeline",
        variant={"zero_cond_t": True},
        one_prompt=True,
        since="0.37",
    ),
    "hunyuan-video-1.5": _transformer(
        "HunyuanVideo 1.5",
        "hunyuan_video15",
        "hunyuan_video15",
        "HunyuanVideo15Pipeline",
        pixels=16,
        since="0.36",
    ),
    "hunyuan-video-1.5-i2v": _transformer(
        "HunyuanVideo 1.5 image to video",
        "hunyuan_video15",
        "hunyuan_video15_image",
        "HunyuanVideo15ImageToVideoPipeline",
        pixels=16,
        since="0.36",
    ),
    "krea2": _transformer("Krea 2", "krea2", "krea2", "Krea2Pipeline", since="0.42"),
    "wan-vace": _transformer("Wan 2.1 VACE", "wan", "wan_vace", "WanVACEPipeline", pixels=16, one_prompt=True),
    "ideogram4": _transformer(
        "Ideogram 4",
        "ideogram4",
        "ideogram4",
        "Ideogram4Pipeline",
        pipeline="xfuser.model_executor.pipelines.pipeline_ideogram4:xFuserIdeogram4Pipeline",
        since="0.42",
    ),
    "cosmos3": _transformer(
        "Cosmos 3",
        "cosmos3",
        "cosmos3",
        "Cosmos3OmniPipeline",
        pixels=16,
        text_tokens=False,
        pipeline="xfuser.model_executor.pipelines.pipeline_cosmos3_omni:xFuserCosmos3OmniPipeline",
        one_prompt=True,
        since="0.42",
    ),
    "ltx2.3": _ltx2("LTX-2.3, all guidances", "ltx2_guided", "LTX2Pipeline", variant={"as_2_3": True}),
    "ltx2.5": _ltx2("LTX-2.5, all guidances", "ltx2_guided", "LTX2Pipeline", variant={"as_2_5": True}),
    "ltx2.5-i2v": _ltx2(
        "LTX-2.5 image to video", "ltx2_image", "LTX2ImageToVideoPipeline", variant={"as_2_5": True}, one_prompt=True
    ),
}
"""And those that are given more: a picture, a video, embeddings."""
