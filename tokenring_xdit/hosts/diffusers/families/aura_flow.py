"""AuraFlow: text, behind learned tokens, is in front of the picture; nothing is masked."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("AuraFlowAttnProcessor2_0", "FusedAuraFlowAttnProcessor2_0")

FAMILY = DiffusersFamily(
    pipelines=(Pipeline(name="AuraFlowPipeline"),),
    transformer="AuraFlowTransformer2DModel",
    compared=(),
    spread={"joint_transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
    plan={
        "joint_transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
        },
        "proj_out": Gather(1),
    },
)
