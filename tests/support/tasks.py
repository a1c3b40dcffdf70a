"""What people do with a family of small pipelines: other classes of pipelines round the same parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tests.support import pictures as p
from tests.support.families import ALL_FAMILIES
from tests.support.kinds import Small, known

__all__ = ["TASKS"]


def _task(
    title: str,
    family: str,
    runs: str,
    given: Callable[[int, int], Mapping[str, Any]] = lambda height, width: {},
    *,
    parts: Callable[[Any], Mapping[str, Any]] = lambda pipe: {},
    variant: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    prompts: bool = True,
) -> Small:
    """A task of a family: another class of pipelines round the same parts.

    Args:
        title: Name in the tables.
        family: Key of the family.
        runs: The class.
        given: Makes the pictures of a call, by height and width.
        parts: Makes the parts that the family's own pipeline lacks.
        variant: Options of the family's pipeline.
        defaults: Options of the family's inputs.
        prompts: Whether it takes several.
    """

    def make(**options: Any) -> Any:
        import diffusers

        base = known(family).make(**{**(variant or {}), **options})
        kind: Any = getattr(diffusers, runs)
        if type(base) is kind:
            return base
        wanted = inspect.signature(kind.__init__).parameters
        found = {name: part for name, part in base.components.items() if name in wanted}
        pipe = kind(**{**found, **parts(base)})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def inputs(**options: Any) -> dict[str, Any]:
        import diffusers

        found = known(family).inputs(**{**(defaults or {}), **options})
        found |= given(found["height"], found["width"])
        takes = inspect.signature(getattr(diffusers, runs).__call__).parameters
        return {name: value for name, value in found.items() if name in takes}

    return Small(title, family, runs, make, inputs, prompts)


def _family(key: str, sizes: str) -> Small:
    """What a family of :data:`ALL_FAMILIES` is for, of the sizes of another one."""
    found = ALL_FAMILIES[key]
    title = found.title.removesuffix(" (`xdit`)")
    return Small(title, sizes, found.runs, found.make, found.inputs, prompts=found.prompts)


_HALVES = {"steps": 4}
"""Steps of which a strength of 0.6 leaves two."""

TASKS: dict[str, Small] = {
    "flux-img2img": _task("FLUX.1 image to image", "flux", "FluxImg2ImgPipeline", p.start, defaults=_HALVES),
    "flux-inpaint": _task("FLUX.1 inpainting", "flux", "FluxInpaintPipeline", p.hole, defaults=_HALVES),
    "flux-fill": _task("FLUX.1 Fill", "flux", "FluxFillPipeline", p.fill, variant={"controls": 2}),
    "flux-kontext": _family("flux-kontext", "flux"),
    "flux-kontext-inpaint": _task(
        "FLUX.1 Kontext inpainting", "flux", "FluxKontextInpaintPipeline", p.kontext_hole, defaults=_HALVES
    ),
    "flux-control-img2img": _task(
        "FLUX.1 control, image to image",
        "flux-control",
        "FluxControlImg2ImgPipeline",
        p.start,
        defaults=_HALVES,
    ),
    "flux-control-inpaint": _task(
        "FLUX.1 control, inpainting",
        "flux-control",
        "FluxControlInpaintPipeline",
        p.hole,
        defaults=_HALVES,
    ),
    "flux-controlnet": _task("FLUX.1 ControlNet", "flux", "FluxControlNetPipeline", p.control, parts=p.flux_controlnet),
    "flux-controlnet-img2img": _task(
        "FLUX.1 ControlNet, image to image",
        "flux",
        "FluxControlNetImg2ImgPipeline",
        lambda height, width: {**p.start(height, width), **p.control(height, width)},
        parts=p.flux_controlnet,
        defaults=_HALVES,
    ),
    "flux-controlnet-inpaint": _task(
        "FLUX.1 ControlNet, inpainting",
        "flux",
        "FluxControlNetInpaintPipeline",
        lambda height, width: {**p.hole(height, width), **p.control(height, width)},
        parts=p.flux_controlnet,
        defaults=_HALVES,
    ),
    "flux2-edit": _task("FLUX.2, two pictures", "flux2", "Flux2Pipeline", p.two_pictures),
    "flux2-klein-edit": _task("FLUX.2 klein, two pictures", "flux2-klein", "Flux2KleinPipeline", p.two_pictures),
    "flux2-klein-inpaint": _task(
        "FLUX.2 klein, inpainting", "flux2-klein", "Flux2KleinInpaintPipeline", p.hole, defaults=_HALVES
    ),
    "sd3-img2img": _task("SD3 image to image", "sd3", "StableDiffusion3Img2ImgPipeline", p.start, defaults=_HALVES),
    "sd3-inpaint": _task(
        "SD3 inpainting", "sd3", "StableDiffusion3InpaintPipeline", p.hole, variant={"channels": 16}, defaults=_HALVES
    ),
    "sd3-controlnet": _task(
        "SD3 ControlNet", "sd3", "StableDiffusion3ControlNetPipeline", p.control, parts=p.sd3_controlnet
    ),
    "sd3-controlnet-inpaint": _task(
        "SD3 ControlNet, inpainting",
        "sd3",
        "StableDiffusion3ControlNetInpaintingPipeline",
        p.control_hole,
        parts=p.sd3_inpainting_controlnet,
    ),
    "qwen-image-img2img": _task(
        "Qwen-Image, image to image", "qwen-image", "QwenImageImg2ImgPipeline", p.start, defaults=_HALVES
    ),
    "qwen-image-inpaint": _task(
        "Qwen-Image, inpainting", "qwen-image", "QwenImageInpaintPipeline", p.hole, defaults=_HALVES
    ),
    "qwen-image-edit": _task(
        "Qwen-Image-Edit",
        "qwen-image",
        "QwenImageEditPipeline",
        p.qwen_edit,
        parts=p.qwen_processor,
        prompts=False,
    ),
    "qwen-image-edit-inpaint": _task(
        "Qwen-Image-Edit, inpainting",
        "qwen-image",
        "QwenImageEditInpaintPipeline",
        p.qwen_edit_hole,
        parts=p.qwen_processor,
        defaults=_HALVES,
        prompts=False,
    ),
    "qwen-image-edit-plus": _task(
        "Qwen-Image-Edit Plus, two pictures",
        "qwen-image",
        "QwenImageEditPlusPipeline",
        p.qwen_edit_two,
        parts=p.qwen_processor,
        prompts=False,
    ),
    "qwen-edit-2511": _family("qwen-edit-2511", "qwen-image"),
    "qwen-image-controlnet": _task(
        "Qwen-Image ControlNet",
        "qwen-image",
        "QwenImageControlNetPipeline",
        p.control,
        parts=p.qwen_controlnet,
    ),
    "qwen-image-controlnet-inpaint": _task(
        "Qwen-Image ControlNet, inpainting",
        "qwen-image",
        "QwenImageControlNetInpaintPipeline",
        p.control_hole,
        parts=p.qwen_inpainting_controlnet,
    ),
    "chroma-img2img": _task("Chroma, image to image", "chroma", "ChromaImg2ImgPipeline", p.start, defaults=_HALVES),
    "z-image-img2img": _task("Z-Image, image to image", "z-image", "ZImageImg2ImgPipeline", p.start, defaults=_HALVES),
    "z-image-inpaint": _task("Z-Image, inpainting", "z-image", "ZImageInpaintPipeline", p.hole, defaults=_HALVES),
    "z-image-controlnet": _task(
        "Z-Image ControlNet", "z-image", "ZImageControlNetPipeline", p.control, parts=p.z_image_controlnet
    ),
    "z-image-controlnet-inpaint": _task(
        "Z-Image ControlNet, inpainting",
        "z-image",
        "ZImageControlNetInpaintPipeline",
        lambda height, width: {**p.hole(height, width), **p.control(height, width)},
        parts=p.z_image_inpainting_controlnet,
        prompts=False,  # diffusers has one mask for all of several
    ),
    "cogvideox-i2v": _task(
        "CogVideoX, image to video",
        "cogvideox",
        "CogVideoXImageToVideoPipeline",
        p.first,
        variant={"pictures": 1},
        prompts=False,
    ),
    "cogvideox-v2v": _task(
        "CogVideoX, video to video", "cogvideox", "CogVideoXVideoToVideoPipeline", p.video, defaults=_HALVES
    ),
    "cogvideox-fun-control": _task(
        "CogVideoX Fun, control",
        "cogvideox",
        "CogVideoXFunControlPipeline",
        p.control_video,
        parts=p.cogvideox_ddim,
        variant={"pictures": 1},
        prompts=False,
    ),
    "hunyuan-video-i2v": _task(
        "HunyuanVideo, image to video",
        "hunyuan-video",
        "HunyuanVideoImageToVideoPipeline",
        p.hunyuan_first,
        parts=lambda pipe: {"image_processor": None},
        variant={"beside": 5, "condition": "latent_concat"},
        prompts=False,
    ),
    "hunyuan-skyreels-i2v": _task(
        "SkyReels V1, image to video",
        "hunyuan-video",
        "HunyuanSkyreelsImageToVideoPipeline",
        p.first,
        variant={"beside": 4},
        prompts=False,
    ),
    "wan-flf2v": _task(
        "Wan 2.1 first and last frame",
        "wan-i2v",
        "WanImageToVideoPipeline",
        p.first_and_last,
        variant={"last": True},
    ),
    "wan-v2v": _task("Wan, video to video", "wan-t2v", "WanVideoToVideoPipeline", p.video, defaults=_HALVES),
    "wan-vace": _family("wan-vace", "wan-t2v"),
    "hunyuan-video-1.5-i2v": _family("hunyuan-video-1.5-i2v", "hunyuan-video-1.5"),
    "skyreels-v2-forcing": _task(
        "SkyReels V2, diffusion forcing",
        "skyreels-v2",
        "SkyReelsV2DiffusionForcingPipeline",
        variant={"forcing": True},
        prompts=False,
    ),
    "skyreels-v2-i2v": _task(
        "SkyReels V2, image to video",
        "skyreels-v2",
        "SkyReelsV2ImageToVideoPipeline",
        p.first,
        parts=p.skyreels_encoder,
        variant={"picture": True},
        prompts=False,
    ),
    "skyreels-v2-forcing-i2v": _task(
        "SkyReels V2, diffusion forcing, image to video",
        "skyreels-v2",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        p.first,
        variant={"forcing": True},
        prompts=False,
    ),
    "skyreels-v2-forcing-v2v": _task(
        "SkyReels V2, diffusion forcing, video to video",
        "skyreels-v2",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        p.longer_video,
        variant={"forcing": True},
        prompts=False,
    ),
    "ltx2-i2v": _task("LTX-2, image to video", "ltx2", "LTX2ImageToVideoPipeline", p.first),
    "ltx2-condition": _task("LTX-2, first and last frame", "ltx2", "LTX2ConditionPipeline", p.ltx2_conditions),
    "ltx-i2v": _task("LTX-Video, image to video", "ltx", "LTXImageToVideoPipeline", p.first),
    "ltx-condition": _task(
        "LTX-Video, first and last frame", "ltx", "LTXConditionPipeline", p.conditions, prompts=False
    ),
}
"""What people do with a family."""
