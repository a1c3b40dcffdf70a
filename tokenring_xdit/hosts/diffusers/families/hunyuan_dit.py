"""HunyuanDiT: text is whole on every rank; long skips stay on the rank that they are of."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("HunyuanAttnProcessor2_0", "FusedHunyuanAttnProcessor2_0")

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="HunyuanDiT2DModel",
    compared=("HunyuanDiTPipeline",),
    spread={"blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS},
    plan={"blocks.*": {"hidden_states": Split(1, once=True), "image_rotary_emb": Split(0)}, "proj_out": Gather(1)},
)
