"""Every name of diffusers that this host relies on, in one list; a test fails by that name when one changes."""

from __future__ import annotations

from tokenring_xdit.hosts.base import ReliedOn
from tokenring_xdit.hosts.diffusers.attention import DISPATCH
from tokenring_xdit.hosts.diffusers.families import FAMILIES

__all__ = ["RELIED_ON"]

_MODELING = "diffusers.models.modeling_utils"

RELIED_ON: tuple[ReliedOn, ...] = (
    ReliedOn(
        DISPATCH,
        "_templated_context_parallel_attention",
        "answered for transformers that were spread",
        ("query", "key", "value", "attn_mask", "scale", "forward_op", "_parallel_config"),
    ),
    ReliedOn(DISPATCH, "_AttentionBackendRegistry.get_active_backend", "whose kernel was asked for"),
    ReliedOn(DISPATCH, "_native_attention_forward_op", "told by its name"),
    ReliedOn(DISPATCH, "_cudnn_attention_forward_op", "told by its name"),
    ReliedOn(DISPATCH, "_native_flash_attention_forward_op", "told by its name"),
    ReliedOn(_MODELING, "ModelMixin.enable_parallelism", "takes a config of ours", ("config", "cp_plan")),
    ReliedOn(_MODELING, "ModelMixin.set_attention_backend", "asked for known kernels only", ("backend",)),
    ReliedOn(_MODELING, "ModelMixin._parallel_config", "tells whether diffusers spread it"),
    ReliedOn(
        "diffusers.hooks.first_block_cache",
        "FBCHeadBlockHook._should_compute_remaining_blocks",
        "decides by the data of all ranks",
        ("hidden_states_residual",),
    ),
    *(
        ReliedOn("diffusers", f"{family.transformer}._cp_plan", "where it is cut")
        for family in FAMILIES.values()
        if family.plan is None
    ),
    *(name for family in FAMILIES.values() for name in family.relied_on),
)
"""All of them."""
