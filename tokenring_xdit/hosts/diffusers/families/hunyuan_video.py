"""HunyuanVideo: text is behind the video, and its mask hides the end of each prompt."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("HunyuanVideoAttnProcessor2_0",)
_SEQUENCES: dict[str | int, Split | tuple[Split, ...]] = {
    "hidden_states": Split(1, once=True),
    "encoder_hidden_states": Split(1, once=True),
}
_MASK = Split(3, parts=("hidden_states", "encoder_hidden_states"))

FAMILY = DiffusersFamily(
    pipelines=(
        Pipeline(name="HunyuanVideoImageToVideoPipeline", multiple=16, needs_picture=True),
        Pipeline(name="HunyuanSkyreelsImageToVideoPipeline", multiple=16, needs_picture=True),
    ),
    transformer="HunyuanVideoTransformer3DModel",
    compared=("HunyuanVideoPipeline",),
    spread={"transformer_blocks.*.attn": _PROCESSORS, "single_transformer_blocks.*.attn": _PROCESSORS},
    local={"context_embedder.token_refiner.refiner_blocks.*.attn": ("AttnProcessor2_0",)},
    plan={
        "transformer_blocks.*": {**_SEQUENCES, "attention_mask": _MASK, "freqs_cis": Split(0)},
        "single_transformer_blocks.*": {**_SEQUENCES, "attention_mask": _MASK, "image_rotary_emb": Split(0)},
        "proj_out": Gather(1),
    },
    config={"image_condition_type": (None, "latent_concat")},
)
