"""ConsisID: CogVideoX with a face that stays the same."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, OwnPipeline, Shares, TokenCut, XfuserFamily

__all__ = ["FAMILY"]

FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="ConsisIDPipeline", needs_picture=True, needs=("id_cond", "id_vit_hidden")),),
    cut=TokenCut(
        transformer="ConsisIDTransformer3DModel",
        blocks=("transformer_blocks",),
        whole_again="norm_final",
        attention={"attn1": ("CogVideoXAttnProcessor2_0",)},
        other_attention={},
        joint_text=True,
        text_first=True,
        rotary="image_rotary_emb",
    ),
    own=(
        OwnPipeline(
            runs="ConsisIDPipeline",
            module="pipeline_consisid",
            name="xFuserConsisIDPipeline",
            shares=Shares.ROWS,
            guidance_of_one=False,
        ),
    ),
    lora={TRANSFORMERS + "consisid_transformer_3d:xFuserConsisIDTransformer3DWrapper": "attention_kwargs"},
)
