"""PixArt alpha and sigma: text is whole on every rank."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("AttnProcessor2_0", "FusedAttnProcessor2_0")

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="PixArtTransformer2DModel",
    compared=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    spread={"transformer_blocks.*.attn1": _PROCESSORS},
    local={"transformer_blocks.*.attn2": _PROCESSORS},
    plan={"transformer_blocks.*": {"hidden_states": Split(1, once=True)}, "proj_out": Gather(1)},
    refused=("attention_mask",),
)
