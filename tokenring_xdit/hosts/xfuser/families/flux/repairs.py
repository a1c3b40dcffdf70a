"""What xfuser 0.7.0 gets wrong for FLUX.1 without PipeFusion, repaired where TokenRing is chosen."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.layout import KeyLayout, active_layout, all_real, cut, key_layout, padding, sequence_layout
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import PIPELINES, TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)

__all__ = ["HOOKS"]

_TRANSFORMER = TRANSFORMERS + "transformer_flux"


def count_replicated_text_once(flux: Any) -> None:
    """Hand text that every rank holds to ``USP`` as joint tensors.

    xfuser 0.7.0: where the text length does not divide by the degree, each rank keeps all of it and
    it enters the main sequence, so every text key is counted once a rank (7.7e-3 off).
    """

    def make(original: Any) -> Any:
        def usp(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
            layout = active_layout()
            text = layout.replicated_in_front if layout is not None else 0
            if layout is None and kwargs.get("joint_strategy") is None:
                _refuse_text_of_unknown_length()
            if not text or kwargs.get("joint_strategy") is not None:
                return original(query, key, value, **kwargs)
            text_q, query = query.tensor_split([text], dim=2)
            text_k, key = key.tensor_split([text], dim=2)
            text_v, value = value.tensor_split([text], dim=2)
            joint = {"joint_query": text_q, "joint_key": text_k, "joint_value": text_v, "joint_strategy": "front"}
            return original(query, key, value, **joint, **kwargs)

        return usp

    replace_method(flux, "USP", make)


def _refuse_text_of_unknown_length() -> None:
    """Programs that shard diffusers' own transformer by hand (xfuser's ``flux_usp_example.py``) tell no layout."""
    from xfuser.core.distributed import get_pipeline_parallel_world_size, get_runtime_state

    if (
        current_choice() is not None
        and not get_runtime_state().split_text_embed_in_sp
        and get_pipeline_parallel_world_size() == 1
    ):
        raise UnsupportedError(
            f"every one of {sequence_parallel_ranks()} ranks holds the whole text, which attention cannot tell from "
            "the picture outside xfuser's own Flux transformer and pipeline, and would count once a rank. Use a "
            "max_sequence_length that the ranks divide, or xFuserFluxPipeline"
        )


def take_any_number_of_image_tokens(flux: Any) -> None:
    """Tell attention which image tokens are padding, and give the padding function the name it is called by.

    xfuser 0.7.0: ``xFuserFlux1Transformer2DWrapper.forward`` calls ``_pad_to_sp_divisible``, the
    method is named ``pad_to_sp_divisible``; and the padding it makes is attended as keys.
    """

    def make(original: Any) -> Any:
        def forward(self: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not wanted():
                return original(self, hidden_states, encoder_hidden_states, *args, **kwargs)
            layout = _layout(sequence_parallel_ranks(), encoder_hidden_states.shape[-2], hidden_states.shape[1])
            # For this call only: without the repairs the padding would be attended instead of refused.
            misnamed = not hasattr(self, "_pad_to_sp_divisible")
            if misnamed:
                self._pad_to_sp_divisible = self.pad_to_sp_divisible
            try:
                with key_layout(layout):
                    return original(self, hidden_states, encoder_hidden_states, *args, **kwargs)
            finally:
                if misnamed:
                    del self._pad_to_sp_divisible

        return forward

    replace_forward(flux.xFuserFlux1Transformer2DWrapper, make)


def pad_the_picture(pipeline: Any) -> None:
    """Pad image tokens for the loop of a Flux pipeline of xfuser's and cut the padding off again.

    xfuser 0.7.0 refuses pictures whose rows of tokens do not divide by the degree.

    Args:
        pipeline: ``xFuserFluxPipeline`` or ``xFuserPipelineFluxControlPipeline``.
    """

    def make(original: Any) -> Any:
        def sync_pipeline(self: Any, *, latents: Tensor, prompt_embeds: Tensor, **kwargs: Any) -> Any:
            from xfuser.core.distributed import get_pipeline_parallel_world_size

            ranks, tokens = sequence_parallel_ranks(), latents.shape[1]
            kwargs["prompt_embeds"] = prompt_embeds
            if not wanted() or get_pipeline_parallel_world_size() > 1:
                return original(self, latents=latents, **kwargs)
            missing = (0, 0, 0, padding(tokens, ranks))
            for name in kwargs.keys() & {"latent_image_ids", "control_image"}:
                kwargs[name] = pad(kwargs[name], missing)
            with key_layout(_layout(ranks, prompt_embeds.shape[-2], tokens)):
                result = original(self, latents=pad(latents, missing), **kwargs)
            if isinstance(result, tuple):  # latents and control image
                return tuple(part[:, :tokens] for part in result)
            return result[:, :tokens]

        return sync_pipeline

    replace_method(pipeline, "_sync_pipeline", make)


@outside_graphs
@functools.lru_cache(maxsize=32)
def _layout(ranks: int, text: int, image: int) -> KeyLayout:
    """Text in front of the image; every rank holds all of it where its length does not divide."""
    if text % ranks:
        return KeyLayout.of_segments(cut(all_real(image), ranks), replicated_in_front=text)
    return sequence_layout(ranks, text, image)


def _pipeline(module: Any) -> None:
    # xfuser 0.7.0 finds a pipeline's transformer among those that were imported, and imports FLUX.1's along with
    # FLUX.2's only: without that, in a diffusers before 0.37, its pipeline refuses its own transformer.
    importlib.import_module(_TRANSFORMER)
    pad_the_picture(module.xFuserFluxPipeline)


def _transformer(flux: Any) -> None:
    count_replicated_text_once(flux)
    take_any_number_of_image_tokens(flux)


HOOKS = {
    _TRANSFORMER: _transformer,
    PIPELINES + "pipeline_flux": _pipeline,
    PIPELINES + "pipeline_flux_control": lambda module: pad_the_picture(module.xFuserPipelineFluxControlPipeline),
}
