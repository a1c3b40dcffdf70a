"""What xfuser 0.7.0 gets wrong with the strength of a LoRA that is given with the call (``{"scale": 0.5}``)."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.compat.torch import frame_outside_graphs
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, wanted

__all__ = ["scale_lora_for_the_call"]


def scale_lora_for_the_call(name: str, argument: str, module: Any) -> None:
    """Scale LoRA layers for one call of a transformer, as diffusers does.

    xfuser 0.7.0: the forward functions of Wan and HunyuanVideo take the scale out of ``attention_kwargs`` and use it
    for nothing, that of Z-Image has no such argument. Those of the others scale the layers, and leave them scaled
    where the call raises, or where a PipeFusion stage is not the last (SD3): the next call scales them once more.

    Args:
        name: xfuser's class of the transformer.
        argument: The argument that the scale comes in.
        module: xfuser's module.
    """

    def make(original: Any) -> Any:
        from tokenring_xdit.compat.diffusers import apply_lora_scale

        # It takes the scale out, so that the original sees none. Only its own frame is kept from torch.compile.
        scaled = frame_outside_graphs(apply_lora_scale(argument)(original))

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return (scaled if wanted() else original)(self, *args, **kwargs)

        return forward

    replace_forward(getattr(module, name), make)
