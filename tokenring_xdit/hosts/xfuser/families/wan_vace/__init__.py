"""Wan 2.1 VACE."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline, ReliedOn
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS, XfuserFamily

__all__ = ["FAMILY"]

_TRANSFORMER = TRANSFORMERS + "transformer_wan_vace"
_WRAPPER = f"{_TRANSFORMER}:xFuserWanVACETransformer3DWrapper"

FAMILY = XfuserFamily(
    pipelines=(
        Pipeline(name="WanVACEPipeline", image="reference_images", references=True, one_prompt=True, whole_video=True),
    ),
    wrapper=_WRAPPER,
    controls=("control_hidden_states", "control_hidden_states_scale"),
    runners=("xFuserWan21VACEModel",),
    lora={_WRAPPER: "attention_kwargs"},
    repairs=f"{__name__}.repairs",
    relied_on=(
        ReliedOn(_TRANSFORMER, "xFuserWanVACETransformer3DWrapper.forward", "told about padding", ("hidden_states",)),
        ReliedOn(
            "xfuser.model_executor.models.runner_models.wan",
            "xFuserWan21VACEModel._run_pipe",
            "handed a prompt in place of a list",
            ("input_args",),
        ),
    ),
)
