"""Which pipelines TokenRing may run in: those that were compared with the single process, and no others."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.choice import choice_of, current_choice, tokenring_degree_of
from tokenring_xdit.hosts.xfuser.repairs.common import (
    pipeline_name,
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    wanted,
)
from tokenring_xdit.messages import one_line

__all__ = [
    "HOOKS",
    "TESTED_RUNNERS",
    "WRAPPERS",
    "heads_of",
    "refuse_ulysses",
    "refuse_untested",
    "refuse_untested_model",
    "wrapper_class",
]

_TRANSFORMERS = "xfuser.model_executor.models.transformers."
_FLUX = _TRANSFORMERS + "transformer_flux:xFuserFlux1Transformer2DWrapper"
_FLUX2 = _TRANSFORMERS + "transformer_flux2:xFuserFlux2Transformer2DWrapper"
_WAN = _TRANSFORMERS + "transformer_wan:xFuserWanTransformer3DWrapper"

WRAPPERS: dict[str, str | None] = {
    "CogVideoXPipeline": None,
    "Flux2KleinPipeline": _FLUX2,
    "Flux2Pipeline": _FLUX2,
    "FluxControlPipeline": _FLUX,
    "FluxPipeline": _FLUX,
    "HunyuanDiTPipeline": None,
    "HunyuanVideoPipeline": _TRANSFORMERS + "transformer_hunyuan_video:xFuserHunyuanVideoTransformer3DWrapper",
    "LTX2Pipeline": _TRANSFORMERS + "transformer_ltx2:xFuserLTX2VideoTransformer3DWrapper",
    "LattePipeline": None,
    "Lumina2Pipeline": None,
    "PixArtAlphaPipeline": None,
    "PixArtSigmaPipeline": None,
    "QwenImagePipeline": _TRANSFORMERS + "transformer_qwen:xFuserQwenImageTransformerWrapper",
    "StableDiffusion3Pipeline": None,
    "WanImageToVideoPipeline": _WAN,
    "xFuserWanImageToVideoPipeline": _WAN,
    "WanPipeline": _WAN,
    "ZImagePipeline": _TRANSFORMERS + "transformer_z_image:xFuserZImageTransformer2DWrapper",
}
"""Diffusers pipelines that were compared (``tests/hosts/xfuser`` does so for each of them), with xfuser's class
of their transformer; ``None`` where :mod:`tokenring_xdit.hosts.xfuser.tokens` cuts diffusers' own."""

TESTED_RUNNERS = frozenset(
    {
        "xFuserFlux2Klein4BModel",
        "xFuserFlux2Klein9BModel",
        "xFuserFlux2Model",
        "xFuserFluxModel",
        "xFuserHunyuanvideoModel",
        "xFuserLTX2VideoModel",
        "xFuserLumina2Model",
        "xFuserQwenImageModel",
        "xFuserStableDiffusionModel",
        "xFuserWan21I2VModel",
        "xFuserWan21T2VModel",
        "xFuserWan22DistilledI2VModel",
        "xFuserWan22I2VModel",
        "xFuserWan22T2VModel",
        "xFuserWan22TI2VModel",
        "xFuserZImageModel",
        "xFuserZImageTurboModel",
    }
)
"""Classes of xfuser's `xdit` command that load one of these pipelines, with a transformer of the compared form."""


_STAGED_PIPELINES = frozenset(
    {
        "FluxControlPipeline",
        "FluxPipeline",
        "HunyuanDiTPipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "StableDiffusion3Pipeline",
    }
)
"""Those that were compared together with PipeFusion."""


def refuse_untested_model(runner: type, model: str, degree: int) -> None:
    """Refuse a model of the `xdit` command that was not compared.

    Args:
        runner: xfuser's class for it.
        model: Its name.
        degree: The TokenRing degree.

    Raises:
        UnsupportedError: It was not, and the degree is more than 1.
    """
    if degree > 1 and runner.__name__ not in TESTED_RUNNERS:
        raise UnsupportedError(
            f"tokenring_degree={degree} was asked for with {model}, which has not been compared with the single "
            "process yet. Use ulysses_degree or ring_degree for it"
        )


def refuse_untested_models(base_model: Any) -> None:
    """Refuse other models of the `xdit` command by name, before their weights are loaded."""

    def make(original: Any) -> Any:
        def validate_config(self: Any, config: Any) -> None:
            refuse_untested_model(type(self), config.model, tokenring_degree_of(config))
            original(self, config)

        return validate_config

    replace_method(base_model.xFuserModel, "_validate_config", make)


def refuse_untested_pipelines(runtime_state: Any) -> None:
    """Refuse other pipelines when xfuser makes its runtime state for one, before anything is computed.

    xfuser 0.7.0 shards several models in ways that are wrong for some lengths; until a model has been
    compared with the single process it may be one of them.
    """

    def make(original: Any) -> Any:
        def check(self: Any, pipeline: Any, parallel_config: Any) -> None:
            if choice_of(parallel_config) is not None:
                refuse_untested(pipeline)
                transformer = getattr(getattr(pipeline, "module", pipeline), "transformer", None)
                refuse_ulysses(parallel_config.ulysses_degree, heads_of(getattr(transformer, "config", {})))
                if parallel_config.pp_degree > 1 and pipeline_name(pipeline) not in _STAGED_PIPELINES:
                    raise UnsupportedError(
                        f"PipeFusion together with TokenRing was not compared for {pipeline_name(pipeline)}, only for "
                        f"{', '.join(sorted(_STAGED_PIPELINES))}. Use pipefusion_parallel_degree=1"
                    )
            original(self, pipeline, parallel_config)

        return check

    replace_method(runtime_state.DiTRuntimeState, "_check_model_and_parallel_config", make)


def refuse_untested(
    pipeline: Any, asked: str = "TokenRing", instead: str = "Use ulysses_degree or ring_degree for it"
) -> None:
    """Refuse a pipeline that was not compared.

    Args:
        pipeline: The pipeline, or xfuser's around it.
        asked: What was asked for.
        instead: What to do, as a sentence.

    Raises:
        UnsupportedError: It was not.
    """
    name = pipeline_name(pipeline)
    if name not in WRAPPERS:
        raise UnsupportedError(
            f"{asked} was asked for in {name}, which has not been compared with the single process yet. "
            f"Compared so far: {', '.join(sorted(WRAPPERS))}. {instead}"
        )


def wrapper_class(wrapper: str) -> Any:
    """Xfuser's subclass of a transformer's class, by ``module:name``.

    Raises:
        UnsupportedError: It needs what the installed diffusers does not have.
    """
    try:
        return pkgutil.resolve_name(wrapper)
    except ImportError as error:
        raise UnsupportedError(
            f"xfuser {version('xfuser')} cannot shard this model with diffusers {version('diffusers')} "
            f"({one_line(str(error).partition(' (')[0])}): use a newer diffusers, or the pipeline without parallelize"
        ) from error


def heads_of(transformer: Mapping[str, Any]) -> int | None:
    """The attention heads that a transformer's configuration states."""
    heads = transformer.get("num_attention_heads", transformer.get("n_heads"))  # Z-Image's name
    return None if heads is None else int(heads)


def refuse_ulysses(degree: int, heads: int | None) -> None:
    """Refuse a Ulysses degree that does not divide the attention heads, where their number is known.

    Raises:
        UnsupportedError: It does not.
    """
    if heads is not None and heads % degree:
        fitting = [d for d in range(1, heads + 1) if heads % d == 0]
        raise UnsupportedError(
            f"ulysses_degree={degree} does not divide the model's {heads} heads. Degrees that "
            f"would work: {', '.join(map(str, fitting))}. tokenring_degree takes any number"
        )


def say_which_heights_work(runtime_state: Any) -> None:
    """Say what to do about a height that xfuser cannot cut by rows.

    xfuser 0.7.0 raises a ``ValueError`` that names neither the height nor one that works.
    """

    def make(original: Any) -> Any:
        def calc_patches_metadata(self: Any) -> None:
            try:
                original(self)
            except ValueError as error:
                if choice_of(self.parallel_config) is None:
                    raise
                ranks, height = self.parallel_config.sp_degree, self.input_config.height
                scale = getattr(self, "vae_scale_factor_spatial", None) or self.vae_scale_factor
                unit = scale * self.backbone_patch_size * ranks
                fitting = " or ".join(str(n * unit) for n in (height // unit, height // unit + 1) if n)
                raise UnsupportedError(
                    f"a height of {height} pixels cannot be cut over {ranks} ranks: xfuser's pipeline cuts this model "
                    f"by rows of tokens, so the height has to be a multiple of {unit}. Use {fitting}, another degree, "
                    "or tokenring_xdit.parallelize, which takes any height"
                ) from error

        return calc_patches_metadata

    state = runtime_state.DiTRuntimeState
    for name in ("_calc_patches_metadata", "_calc_cogvideox_patches_metadata"):
        replace_method(state, name, make)


def refuse_padded_ltx2(ltx2: Any) -> None:
    """Refuse sizes of LTX-2 that xfuser has to pad.

    xfuser 0.7.0 attends the padding, also where sound attends to keys gathered from all ranks, which no
    ring sees and no repair reaches yet.
    """

    def make(original: Any) -> Any:
        def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            ranks, tokens = sequence_parallel_ranks(), hidden_states.shape[1]
            if wanted() and tokens % ranks:
                raise UnsupportedError(
                    f"LTX-2 with {tokens} video tokens cannot be cut over {ranks} ranks: xfuser would attend "
                    f"the padding. Use a size and a number of frames whose tokens are a multiple of {ranks}, "
                    "or another degree"
                )
            return original(self, hidden_states, *args, **kwargs)

        return forward

    replace_forward(ltx2.xFuserLTX2VideoTransformer3DWrapper, make)


_WAN_TEXT_TOKENS = 512


def refuse_short_text_beside_a_picture(wan: Any) -> None:
    """Refuse Wan's image-to-video with fewer text tokens than Wan takes for granted.

    diffusers and xfuser find the picture's tokens as all but the last 512; with fewer of text there are none, over
    which diffusers attends nothing and the kernel of a CPU ends the process (division by zero).
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Any,
            timestep: Any,
            encoder_hidden_states: Any,
            encoder_hidden_states_image: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            tokens = encoder_hidden_states.shape[1]
            if wanted() and encoder_hidden_states_image is not None and tokens != _WAN_TEXT_TOKENS:
                raise UnsupportedError(
                    f"max_sequence_length={tokens} was asked for, but Wan tells a picture's tokens from the text's by "
                    f"the number {_WAN_TEXT_TOKENS}: use max_sequence_length={_WAN_TEXT_TOKENS}"
                )
            return original(
                self, hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, *args, **kwargs
            )

        return forward

    replace_forward(wan.xFuserWanTransformer3DWrapper, make)


def refuse_patches_at_once(pipeline: Any) -> None:
    """Refuse PipeFusion that works on several patches at once, for pipelines whose cached keys xfuser mixes up.

    xfuser 0.7.0: SD3 keeps the keys of its layers in two forms, and without sequence parallelism its own
    run fails ("expanded size of the tensor"); HunyuanDiT with Ulysses or Ring makes other pictures than
    without. There is nothing to compare with.

    Args:
        pipeline: xfuser's class.
    """

    def make(original: Any) -> Any:
        def sync_pipeline(self: Any, *args: Any, sync_only: bool = False, **kwargs: Any) -> Any:
            from xfuser.core.distributed import get_pipeline_parallel_world_size

            if current_choice() is not None and get_pipeline_parallel_world_size() > 1 and not sync_only:
                raise UnsupportedError(
                    "PipeFusion on several patches at once together with TokenRing was not compared for "
                    f"{pipeline_name(self)}, where xfuser has no result of its own to compare with (docs/upstream.md). "
                    "Use pipefusion_parallel_degree=1, or, in a program of your own, warmup_steps of at least the "
                    "number of steps, so that stages work in order"
                )
            return original(self, *args, sync_only=sync_only, **kwargs)

        return sync_pipeline

    replace_method(pipeline, "_sync_pipeline", make)


def _runtime_state(runtime_state: Any) -> None:
    refuse_untested_pipelines(runtime_state)
    say_which_heights_work(runtime_state)


HOOKS = {
    "xfuser.core.distributed.runtime_state": _runtime_state,
    "xfuser.model_executor.models.runner_models.base_model": refuse_untested_models,
    "xfuser.model_executor.models.transformers.transformer_ltx2": refuse_padded_ltx2,
    "xfuser.model_executor.models.transformers.transformer_wan": refuse_short_text_beside_a_picture,
    "xfuser.model_executor.pipelines.pipeline_hunyuandit": lambda module: refuse_patches_at_once(
        module.xFuserHunyuanDiTPipeline
    ),
    "xfuser.model_executor.pipelines.pipeline_stable_diffusion_3": lambda module: refuse_patches_at_once(
        module.xFuserStableDiffusion3Pipeline
    ),
}
