"""HunyuanVideo 1.5: text of two encoders and features of a picture are behind the video; a mask is for pairs."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="HunyuanVideo15Transformer3DModel",
    compared=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
    spread={"transformer_blocks.*.attn": ("HunyuanVideo15AttnProcessor2_0",)},
    local={"context_embedder.token_refiner.refiner_blocks.*.attn": ("AttnProcessor2_0",)},
    plan={
        "transformer_blocks.*": {
            "hidden_states": Split(1, once=True),
            "encoder_hidden_states": Split(1, once=True),
            "attention_mask": Split(1),
            "freqs_cis": Split(0),
        },
        "proj_out": Gather(1),
    },
    absent_if_zero=("image_embeds",),
    pair_masks=True,
)
