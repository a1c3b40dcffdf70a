"""What xfuser 0.7.0 gets wrong for Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenring_xdit.hosts.xfuser.family import PIPELINES, PROCESSORS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def attend_the_image_alone(processors: Any) -> None:
    """Run the second attention of SD3.5 medium's dual blocks, which sees no text.

    xfuser 0.7.0: ``xFuserJointAttnProcessor2_0`` sets ``joint_strategy`` only where there is text, and
    raises ``UnboundLocalError`` where there is none.
    """

    def make(original: Any) -> Any:
        def call(
            self: Any, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            if encoder_hidden_states is not None or sequence_parallel_ranks() == 1 or not wanted():
                return original(self, attn, hidden_states, encoder_hidden_states, *args, **kwargs)
            query, key, value = (
                project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for project in (attn.to_q, attn.to_k, attn.to_v)
            )
            if attn.norm_q is not None:
                query = attn.norm_q(query)
            if attn.norm_k is not None:
                key = attn.norm_k(key)
            out = processors.USP(query, key, value, attn_layer=attn).transpose(1, 2).flatten(2)
            return attn.to_out[1](attn.to_out[0](out))

        return call

    replace_method(processors.xFuserJointAttnProcessor2_0, "__call__", make)


def denoise_without_guidance(sd3: Any) -> None:
    """Compute SD3 without classifier-free guidance on as many latents as there are pictures.

    xfuser 0.7.0: ``xFuserStableDiffusion3Pipeline._backbone_forward`` doubles the latents and halves the result whether
    there is guidance or not, which fails where there is more than one picture ("size of tensor").
    """

    def make(original: Any) -> Any:
        def backbone_forward(self: Any, latents: Tensor, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
            if not wanted() or self.do_classifier_free_guidance:
                return original(self, latents=latents, encoder_hidden_states=encoder_hidden_states, **kwargs)
            return self.transformer(
                hidden_states=latents,
                timestep=kwargs["t"].expand(latents.shape[0]),
                encoder_hidden_states=encoder_hidden_states,
                pooled_projections=kwargs["pooled_prompt_embeds"],
                joint_attention_kwargs=self.joint_attention_kwargs,
                return_dict=False,
            )[0]

        return backbone_forward

    replace_method(sd3.xFuserStableDiffusion3Pipeline, "_backbone_forward", make)


HOOKS = {
    PROCESSORS: attend_the_image_alone,
    PIPELINES + "pipeline_stable_diffusion_3": denoise_without_guidance,
}
