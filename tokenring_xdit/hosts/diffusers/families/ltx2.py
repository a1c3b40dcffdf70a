"""LTX-2: video and sound are two sequences, which attend to each other; both are cut, text is whole on every rank."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("LTX2AudioVideoAttnProcessor", "LTX2PerturbedAttnProcessor")
_POSITIONS: dict[str | int, Split | tuple[Split, ...]] = {0: Split(-2), 1: Split(-2)}

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="LTX2VideoTransformer3DModel",
    compared=("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"),
    spread={
        f"transformer_blocks.*.{name}": _PROCESSORS
        for name in ("attn1", "audio_attn1", "audio_to_video_attn", "video_to_audio_attn")
    },
    local={f"transformer_blocks.*.{name}": _PROCESSORS for name in ("attn2", "audio_attn2")},
    plan={
        "": {
            "hidden_states": Split(1, 3),
            "audio_hidden_states": Split(1, 3),
            "timestep": Split(1, 2),
            "audio_timestep": Split(1, 2),
        },
        **dict.fromkeys(("rope", "audio_rope", "cross_attn_rope", "cross_attn_audio_rope"), _POSITIONS),
        "proj_out": Gather(1),
        "audio_proj_out": Gather(1, of="audio_hidden_states"),
    },
    refused=("perturbation_mask", "video_self_attention_mask", "video_keyframes_mask"),
    no_attention="all_perturbed",  # each token's own value is taken in its place
)
