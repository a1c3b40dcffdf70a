"""Stable Diffusion 3 and 3.5: no plan of diffusers'; the first block may be left out, by skipped layers."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="SD3Transformer2DModel",
    compared=(
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
    ),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "transformer_blocks.*.attn2": _PROCESSORS},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
        },
        "proj_out": Gather(1),
    },
    control={"block_controlnet_hidden_states": Split(1, 3)},
)
