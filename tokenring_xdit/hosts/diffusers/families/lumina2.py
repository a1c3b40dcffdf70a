"""Lumina-Image 2.0: text and picture are one sequence behind the refiners, with a mask where prompts differ."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("Lumina2AttnProcessor2_0",)

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="Lumina2Transformer2DModel",
    compared=("Lumina2Pipeline",),
    spread={"layers.*.attn": _PROCESSORS},
    local={"context_refiner.*.attn": _PROCESSORS, "noise_refiner.*.attn": _PROCESSORS},
    plan={
        "layers.*": {
            "hidden_states": Split(1, once=True),
            "attention_mask": Split(1),
            "image_rotary_emb": Split(1),
        },
        "norm_out": Gather(1),
    },
)
