"""Wan VACE: a second row of blocks over what controls the video, whose tokens are cut as the video's are."""

from __future__ import annotations

from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split

__all__ = ["FAMILY"]

_PROCESSORS = ("WanAttnProcessor",)

FAMILY = DiffusersFamily(
    pipelines=(),
    transformer="WanVACETransformer3DModel",
    compared=("WanVACEPipeline",),
    spread={"blocks.*.attn1": _PROCESSORS, "vace_blocks.*.attn1": _PROCESSORS},
    local={"blocks.*.attn2": _PROCESSORS, "vace_blocks.*.attn2": _PROCESSORS},
    plan={
        "rope": {0: Split(1, 4), 1: Split(1, 4)},
        # each of them is given the whole video, and what the one before it made of the control
        "vace_blocks.*": {"hidden_states": Split(1), "control_hidden_states": Split(1, once=True)},
        "blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    control={"control_hidden_states": None, "control_hidden_states_scale": None},
)
