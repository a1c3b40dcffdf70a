"""FLUX.1, its control models, and Kontext."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import (
    PIPELINES,
    TRANSFORMERS,
    OwnPipeline,
    Shares,
    XfuserFamily,
)
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_flux"

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="FluxPipeline", each_prompt=("prompt_2", "negative_prompt_2"), packed=True),
        Pipeline(
            name="FluxControlPipeline",
            each_prompt=("prompt_2", "control_image"),
            image="control_image",
            needs_picture=True,
        ),
        Pipeline(name="FluxKontextPipeline", each_prompt=("prompt_2", "negative_prompt_2"), packed=True),
    ),
    shapes={"flux": ModelShape(24, 128, calls=57, text=512)},
    wrapper=f"{_TRANSFORMER}:xFuserFlux1Transformer2DWrapper",
    own=(
        OwnPipeline(
            runs="FluxPipeline",
            module="pipeline_flux",
            name="xFuserFluxPipeline",
            shares=Shares.TOKENS,
            any_rows=True,
            stages=True,
        ),
        OwnPipeline(
            runs="FluxControlPipeline",
            module="pipeline_flux_control",
            name="xFuserPipelineFluxControlPipeline",
            shares=Shares.TOKENS,
            any_rows=True,
            stages=True,
        ),
    ),
    runners=("xFuserFluxKontextModel", "xFuserFluxModel"),
    # xFuserFlux1Transformer2DWrapper calls diffusers' own forward, which scales.
    lora={TRANSFORMERS + "transformer_flux:xFuserFluxTransformer2DWrapper": "joint_attention_kwargs"},
    repairs=f"{__name__}.repairs",
    attention=(
        f"{_TRANSFORMER}:USP",
        "diffusers.models.transformers.transformer_flux:dispatch_attention_fn",
    ),
    relied_on=(
        ReliedOn(_TRANSFORMER, "USP", "the module's own reference, replaced by the repair"),
        ReliedOn(_TRANSFORMER, "xFuserFlux1Transformer2DWrapper.forward", "told about padding and replicated text"),
        ReliedOn(
            _TRANSFORMER, "xFuserFlux1Transformer2DWrapper.pad_to_sp_divisible", "called upstream by another name"
        ),
        ReliedOn(
            PIPELINES + "pipeline_flux",
            "xFuserFluxPipeline._sync_pipeline",
            "pads and unpads image tokens",
            ("latents", "latent_image_ids", "prompt_embeds"),
        ),
        ReliedOn(
            PIPELINES + "pipeline_flux_control",
            "xFuserPipelineFluxControlPipeline._sync_pipeline",
            "pads and unpads image tokens",
            ("latents", "latent_image_ids", "prompt_embeds", "control_image"),
        ),
    ),
)
