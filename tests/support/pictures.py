"""Pictures, masks, videos and ControlNets that tasks of small pipelines take, the same on every rank."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.families import text
from tests.support.families.pictures import two_colours

FRAMES = 9
STRENGTH = 0.6


def _picture(height: int, width: int, seed: int = 6) -> torch.Tensor:
    """``[1, 3, height, width]``, from 0 to 1."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _mask(height: int, width: int) -> torch.Tensor:
    """``[1, 1, height, width]``: the right half is drawn anew."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., width // 2 :] = 1
    return mask


def start(height: int, width: int) -> dict[str, Any]:
    """A picture to start from."""
    return {"image": _picture(height, width), "strength": STRENGTH}


def hole(height: int, width: int) -> dict[str, Any]:
    """A picture of which a part is drawn anew."""
    return {**start(height, width), "mask_image": _mask(height, width)}


def fill(height: int, width: int) -> dict[str, Any]:
    """The same for Fill, which sees picture and mask in every step."""
    return {**hole(height, width), "strength": 1.0}


def control(height: int, width: int) -> dict[str, Any]:
    """A picture that a ControlNet sees."""
    return {"control_image": _picture(height, width, 8), "controlnet_conditioning_scale": 0.7}


def control_hole(height: int, width: int) -> dict[str, Any]:
    """A picture and a mask that a ControlNet sees."""
    return {**control(height, width), "control_mask": _mask(height, width)}


def kontext_hole(height: int, width: int) -> dict[str, Any]:
    """A picture of which a part is edited."""
    return {**hole(height, width), "max_area": height * width, "_auto_resize": False}


def two_pictures(height: int, width: int) -> dict[str, Any]:
    """Two pictures of sizes of their own, and of at least 64 pixels, as FLUX.2 asks for."""
    return {"image": [two_colours(72, 64), two_colours(64, 84).rotate(180)]}


def first(height: int, width: int) -> dict[str, Any]:
    """A first frame."""
    return {"image": two_colours(height, width)}


def hunyuan_first(height: int, width: int) -> dict[str, Any]:
    """A first frame, and embeddings of a text that the picture takes part in."""
    from tests.support.families.video_text import TEXT_DIM

    return {
        **first(height, width),
        "prompt": None,
        "prompt_embeds": text.drawn(29, TEXT_DIM, seed=3),
        "pooled_prompt_embeds": text.drawn(1, TEXT_DIM, seed=4)[0],
        "prompt_attention_mask": torch.arange(29)[None] < 23,
    }


def first_and_last(height: int, width: int) -> dict[str, Any]:
    """A first and a last frame."""
    return {**first(height, width), "last_image": two_colours(height, width).rotate(180)}


def conditions(height: int, width: int) -> dict[str, Any]:
    """A first and a last frame, as LTX-Video takes them."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    frames = first_and_last(height, width)
    return {
        "conditions": [
            LTXVideoCondition(image=frames["image"], frame_index=0),
            LTXVideoCondition(image=frames["last_image"], frame_index=8),
        ]
    }


def ltx2_conditions(height: int, width: int) -> dict[str, Any]:
    """A first and a last frame, as LTX-2 takes them."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    frames = first_and_last(height, width)
    return {
        "conditions": [
            LTX2VideoCondition(frames=frames["image"], index=0, strength=1.0),
            LTX2VideoCondition(frames=frames["last_image"], index=-1, strength=0.8),
        ]
    }


def _frames(height: int, width: int) -> list[Any]:
    frame = two_colours(height, width)
    return [frame.rotate(5 * number) for number in range(FRAMES)]


def video(height: int, width: int) -> dict[str, Any]:
    """A video to start from."""
    return {"video": _frames(height, width), "strength": STRENGTH}


def control_video(height: int, width: int) -> dict[str, Any]:
    """A video that controls another one."""
    return {"control_video": _frames(height, width)}


def cogvideox_ddim(pipe: Any) -> dict[str, Any]:
    """The scheduler that the control of CogVideoX Fun takes."""
    from diffusers import CogVideoXDDIMScheduler

    return {"scheduler": CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)}


def longer_video(height: int, width: int) -> dict[str, Any]:
    """A video that is continued, of whose end each part sees some."""
    return {"video": _frames(height, width), "num_frames": 17, "base_num_frames": 9, "overlap_history": 5}


def skyreels_encoder(pipe: Any) -> dict[str, Any]:
    """An encoder of pictures."""
    from tests.support.families.video_text import make_clip_vision

    processor, encoder = make_clip_vision()
    return {"image_processor": processor, "image_encoder": encoder}


def _controlnet(kind: Any, pipe: Any, seed: int, **changes: Any) -> dict[str, Any]:
    """A ControlNet of a transformer's architecture, whose residuals are of a lively scale."""
    with torch.random.fork_rng():
        net = kind.from_config({**pipe.transformer.config, **changes})
    return {"controlnet": text.randomise_weights(net, seed=seed)}


def flux_controlnet(pipe: Any) -> dict[str, Any]:
    """A ``FluxControlNetModel`` of a layer of two streams and one of one."""
    from diffusers import FluxControlNetModel

    return _controlnet(FluxControlNetModel, pipe, 61, num_layers=1, num_single_layers=1)


def sd3_controlnet(pipe: Any) -> dict[str, Any]:
    """An ``SD3ControlNetModel``."""
    from diffusers import SD3ControlNetModel

    return _controlnet(SD3ControlNetModel, pipe, 62, num_layers=2)


def sd3_inpainting_controlnet(pipe: Any) -> dict[str, Any]:
    """The same, which sees a mask too."""
    from diffusers import SD3ControlNetModel

    return _controlnet(SD3ControlNetModel, pipe, 63, num_layers=2, extra_conditioning_channels=1)


def qwen_controlnet(pipe: Any) -> dict[str, Any]:
    """A ``QwenImageControlNetModel``."""
    from diffusers import QwenImageControlNetModel

    return _controlnet(QwenImageControlNetModel, pipe, 64, num_layers=1)


def qwen_inpainting_controlnet(pipe: Any) -> dict[str, Any]:
    """The same, which sees a mask too."""
    from diffusers import QwenImageControlNetModel

    return _controlnet(QwenImageControlNetModel, pipe, 65, num_layers=1, extra_condition_channels=4)


def z_image_controlnet(pipe: Any, **changes: Any) -> dict[str, Any]:
    """A ``ZImageControlNetModel`` that sees both layers."""
    from diffusers import ZImageControlNetModel

    config = pipe.transformer.config
    sizes = {"control_layers_places": [0, 1], "control_in_dim": config["in_channels"], **changes}
    return _controlnet(ZImageControlNetModel, pipe, 66, **sizes)


def z_image_inpainting_controlnet(pipe: Any) -> dict[str, Any]:
    """The same, which sees picture and mask too, and has a say in the refiners."""
    return z_image_controlnet(
        pipe,
        control_in_dim=2 * pipe.transformer.config["in_channels"] + 1,
        control_refiner_layers_places=[0],
        add_control_noise_refiner="control_noise_refiner",
    )


def qwen_processor(pipe: Any) -> dict[str, Any]:
    """Nothing: the text comes as embeddings, so that pictures need not be put into words; and they are small."""
    from tests.support.families.qwen_image import start_from_small_pictures

    start_from_small_pictures()
    return {"processor": None}


def _qwen_text() -> dict[str, Any]:
    from tests.support.families.qwen_image import TEXT_DIM

    return {
        "prompt": None,
        "negative_prompt": None,
        "true_cfg_scale": 4.0,
        "prompt_embeds": text.drawn(23, TEXT_DIM, seed=1),
        "prompt_embeds_mask": torch.ones(1, 23, dtype=torch.long),
        "negative_prompt_embeds": text.drawn(11, TEXT_DIM, seed=2),
        "negative_prompt_embeds_mask": torch.ones(1, 11, dtype=torch.long),
    }


def qwen_edit(height: int, width: int) -> dict[str, Any]:
    """A picture to edit."""
    return {**_qwen_text(), "image": two_colours(96, 64)}


def qwen_edit_hole(height: int, width: int) -> dict[str, Any]:
    """A picture of which a part is edited."""
    from PIL import Image

    mask = Image.fromarray((_mask(64, 64)[0, 0] * 255).to(torch.uint8).numpy())
    return {**_qwen_text(), "image": two_colours(64, 64), "mask_image": mask, "strength": STRENGTH}


def qwen_edit_two(height: int, width: int) -> dict[str, Any]:
    """Two pictures of sizes of their own."""
    return {**_qwen_text(), "image": [two_colours(96, 64), two_colours(64, 128)]}
