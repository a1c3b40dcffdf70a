"""Z-Image: text and picture are one sequence behind the refiners, padded where prompts differ in length."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("ZSingleStreamAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="ZImageImg2ImgPipeline", needs_picture=True),
        Pipeline(name="ZImageInpaintPipeline", each_prompt=("mask_image",), needs_picture=True, needs=("mask_image",)),
        Pipeline(
            name="ZImageControlNetPipeline",
            each_prompt=("control_image",),
            image="control_image",
            needs_picture=True,
        ),
        Pipeline(
            name="ZImageControlNetInpaintPipeline",
            each_prompt=("control_image", "mask_image"),
            needs_picture=True,
            needs=("control_image", "mask_image"),
        ),
    ),
    transformer="ZImageTransformer2DModel",
    compared=("ZImagePipeline",),
    spread={"layers.*.attention": _PROCESSORS},
    local={"context_refiner.*.attention": _PROCESSORS, "noise_refiner.*.attention": _PROCESSORS},
    plan={
        "layers.*": {"x": Split(1, once=True), "attn_mask": Split(1), "freqs_cis": Split(1)},
        "all_final_layer.*": Gather(1, of="x"),
    },
    control={"controlnet_block_samples": Split(1)},  # by layer, of picture and text together
    refused=("siglip_feats", "image_noise_mask"),
)
