"""What xfuser 0.7.0 gets wrong with the strength of a LoRA that is given with the call (``{"scale": 0.5}``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenring_xdit.compat.torch import frame_outside_graphs
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, wanted

__all__ = ["HOOKS"]


def scale_lora_for_the_call(transformer: Any, argument: str) -> None:
    """Scale LoRA layers for one call of a transformer, as diffusers does.

    xfuser 0.7.0: the forward functions of Wan and HunyuanVideo take the scale out of ``attention_kwargs`` and use it
    for nothing, that of Z-Image has no such argument. Those of the others scale the layers, and leave them scaled
    where the call raises, or where a PipeFusion stage is not the last (SD3): the next call scales them once more.

    Args:
        transformer: xfuser's class.
        argument: The argument that the scale comes in.
    """

    def make(original: Any) -> Any:
        from tokenring_xdit.compat.diffusers import apply_lora_scale

        # It takes the scale out, so that the original sees none. Only its own frame is kept from torch.compile.
        scaled = frame_outside_graphs(apply_lora_scale(argument)(original))

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return (scaled if wanted() else original)(self, *args, **kwargs)

        return forward

    replace_forward(transformer, make)


def _of(argument: str, *classes: str) -> Callable[[Any], None]:
    def repair(module: Any) -> None:
        for name in classes:
            scale_lora_for_the_call(getattr(module, name), argument)

    return repair


_MODELS = {
    "cogvideox_transformer_3d": ("attention_kwargs", "xFuserCogVideoXTransformer3DWrapper"),
    "transformer_flux": ("joint_attention_kwargs", "xFuserFluxTransformer2DWrapper"),
    "transformer_hunyuan_video": ("attention_kwargs", "xFuserHunyuanVideoTransformer3DWrapper"),
    "transformer_ltx2": ("attention_kwargs", "xFuserLTX2VideoTransformer3DWrapper"),
    "transformer_lumina2": ("attention_kwargs", "xFuserLumina2Transformer2DWrapper"),
    "transformer_qwen": ("attention_kwargs", "xFuserQwenImageTransformerWrapper"),
    "transformer_sd3": ("joint_attention_kwargs", "xFuserSD3Transformer2DWrapper"),
    "transformer_wan": ("attention_kwargs", "xFuserWanTransformer3DWrapper"),
    "transformer_z_image": ("joint_attention_kwargs", "xFuserZImageTransformer2DWrapper"),
}
"""Modules, each with the name of the argument and its transformer. xFuserFlux1Transformer2DWrapper and that of FLUX.2
call diffusers' own forward, which scales."""

HOOKS = {f"xfuser.model_executor.models.transformers.{module}": _of(*model) for module, model in _MODELS.items()}
