"""What xfuser 0.7.0 gets wrong in its own pipelines, beside attention: schedulers, callbacks, guidance, arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from tokenring_xdit.attention import guarded
from tokenring_xdit.errors import TokenRingError, UnsupportedError
from tokenring_xdit.hosts.xfuser.agreement import (
    agree_on_arguments,
    agree_on_inputs,
    describe,
    noise_of_the_first_rank,
)
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method, sequence_parallel_ranks, wanted
from tokenring_xdit.hosts.xfuser.repairs.latents import Shares
from tokenring_xdit.hosts.xfuser.repairs.schedulers import refuse_in_stages, step_on_the_whole_picture

__all__ = ["HOOKS"]

_INSTEAD = "or tokenring_xdit.parallelize with the diffusers pipeline"

_Arguments = dict[str, Any]


def make_one_call_of_all_ranks(pipeline: Any, shares: Shares, *refusals: Callable[[Any, _Arguments], None]) -> None:
    """Let a pipeline of xfuser's do what the diffusers one does with a scheduler, a callback and global generators.

    Args:
        pipeline: xfuser's class.
        shares: What a rank holds of its latents.
        *refusals: Of what xfuser computes wrongly there, given the pipeline and the arguments of a call.
    """

    def make(original: Any) -> Any:
        signature = inspect.signature(original)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not wanted() or sequence_parallel_ranks() == 1:
                return original(self, *args, **kwargs)
            arguments = _bound(signature, self, args, kwargs)
            problem: TokenRingError | None = None
            try:
                for refuse in (refuse_dropped_arguments, refuse_ranks_for_the_vae, refuse_callbacks, *refusals):
                    refuse(self, arguments)
            except TokenRingError as error:
                problem = error
            agree_on_arguments(_alike(arguments), problem)
            show_callbacks_the_whole_picture(self, arguments, shares)
            with (
                guarded(None, "the call of the pipeline"),
                noise_of_the_first_rank(self.module._execution_device),
                step_on_the_whole_picture(self, shares),
            ):
                return original(self, **arguments)

        return call

    replace_method(pipeline, "__call__", make)


def _bound(signature: inspect.Signature, wrapper: Any, args: Any, kwargs: Any) -> _Arguments:
    """Arguments by name: data parallelism looks for the prompt among those only."""
    bound = signature.bind(wrapper, *args, **kwargs)
    arguments = dict(list(bound.arguments.items())[1:])
    others = arguments.pop("kwargs", {})
    return {**arguments, **others}


def _alike(arguments: _Arguments) -> _Arguments:
    """What has to be the same on all ranks."""
    own = {"generator", "latents"} if _replicated() else set()
    return {name: value for name, value in arguments.items() if name not in own}


def _replicated() -> bool:
    """Whether some ranks make other pictures: data parallelism."""
    from xfuser.core.distributed import get_data_parallel_world_size

    return int(get_data_parallel_world_size()) > 1


def refuse_dropped_arguments(wrapper: Any, arguments: _Arguments) -> None:
    """Refuse what xfuser's pipelines take as ``**kwargs``, and drop."""
    taken = inspect.signature(type(wrapper).__call__).parameters
    known = inspect.signature(type(wrapper.module).__call__).parameters
    for name in [name for name in arguments if name not in taken]:
        default = known[name].default if name in known else None
        if describe(arguments[name]) != describe(default):
            raise UnsupportedError(
                f"{name}={describe(arguments[name])} was asked for, which xfuser's {type(wrapper).__name__} drops: "
                f"leave it out, {_INSTEAD}"
            )
        del arguments[name]


def refuse_ranks_for_the_vae(wrapper: Any, arguments: _Arguments) -> None:
    """Refuse ranks that decode only: they take no part in the call, and nobody can agree with them."""
    from xfuser.core.distributed import get_runtime_state

    ranks = get_runtime_state().parallel_config.vae_parallel_size
    if ranks:
        raise UnsupportedError(
            f"vae_parallel_size={ranks} was asked for together with TokenRing, which was not compared: use 0, with "
            "which the ranks that denoise decode"
        )


def refuse_guidance_of_one(wrapper: Any, arguments: _Arguments) -> None:
    """Refuse calls without classifier-free guidance.

    xfuser 0.7.0: PixArt and CogVideoX end in an error about shapes or ``None``, HunyuanDiT takes the latents for the
    noise that was predicted (1.2 off).
    """
    scale = arguments.get("guidance_scale")
    if scale is not None and scale <= 1:
        raise UnsupportedError(
            f"guidance_scale={scale} was asked for, and xfuser's {type(wrapper).__name__} cannot do without "
            f"classifier-free guidance: use a scale above 1, {_INSTEAD}"
        )


def refuse_rescaled_guidance(wrapper: Any, arguments: _Arguments) -> None:
    """Refuse guidance that is rescaled by its spread over the picture, of which a rank sees its rows (8e-3 off)."""
    rescale = arguments.get("guidance_rescale")
    if rescale:
        raise UnsupportedError(
            f"guidance_rescale={rescale} was asked for, and xfuser's {type(wrapper).__name__} would measure the spread "
            f"of a rank's rows in the place of the picture's: use 0, {_INSTEAD}"
        )


def refuse_callbacks(wrapper: Any, arguments: _Arguments) -> None:
    """Refuse callbacks that see more than latents, or PipeFusion's stages."""
    from xfuser.core.distributed import get_pipeline_parallel_world_size

    callback = arguments.get("callback_on_step_end")
    name = "callback" if callback is None else "callback_on_step_end"
    if arguments.get(name) is None:
        return
    seen = (
        getattr(callback, "tensor_inputs", None) or arguments.get("callback_on_step_end_tensor_inputs") or ["latents"]
    )
    if get_pipeline_parallel_world_size() > 1:
        why = "in PipeFusion it would see what is no picture yet: use pipefusion_parallel_degree=1"
    elif list(seen) != ["latents"]:
        why = f"of {', '.join(seen)} only latents are put together for it: leave the others out"
    else:
        return
    raise UnsupportedError(f"{name} was asked for with xfuser's {type(wrapper).__name__}, and {why}, {_INSTEAD}")


def show_callbacks_the_whole_picture(wrapper: Any, arguments: _Arguments, shares: Shares) -> None:
    """Give callbacks the whole latents, and take the rank's share of what they make of them.

    xfuser 0.7.0: they see a rank's share, and what they return is taken for that (SD3 with a contrast about the mean:
    7e-3 off).

    Args:
        wrapper: xfuser's pipeline.
        arguments: Those of the call, which are changed.
        shares: What a rank holds of its latents.
    """
    if arguments.get("callback_on_step_end") is not None:
        arguments["callback_on_step_end"] = partial(_step_end, arguments["callback_on_step_end"], shares)
        arguments["callback_on_step_end_tensor_inputs"] = ["latents"]
    elif arguments.get("callback") is not None:
        arguments["callback"] = partial(_legacy, arguments["callback"], shares)


def _step_end(callback: Any, shares: Shares, wrapper: Any, step: int, time: Any, tensors: dict[str, Any]) -> Any:
    before = _switches(wrapper)
    whole = shares.whole(tensors["latents"])
    returned = callback(wrapper, step, time, {"latents": whole}) or {}
    lost = set(returned) - {"latents"} | {name for name, value in _switches(wrapper).items() if value != before[name]}
    if lost:
        raise UnsupportedError(
            f"callback_on_step_end changed {', '.join(sorted(lost))}, and xfuser's {type(wrapper).__name__} would not "
            f"look at that again: change latents only, {_INSTEAD}"
        )
    changed = returned.get("latents", whole)
    if not _replicated():
        agree_on_inputs("pipeline", {"latents": changed, "interrupt": getattr(wrapper, "_interrupt", False)})
    return {"latents": shares.own(changed)}


_SWITCHES = {"xFuserHunyuanDiTPipeline": ("_guidance_scale", "_guidance_rescale", "_interrupt")}
"""Attributes that callbacks set, and that diffusers looks at in each step and xfuser does not, by pipeline."""


def _switches(wrapper: Any) -> dict[str, Any]:
    names = _SWITCHES.get(type(wrapper).__name__, ("_guidance_scale",))
    return {name: getattr(wrapper, name, None) for name in names}


def _legacy(callback: Any, shares: Shares, step: int, time: Any, latents: Tensor) -> None:
    whole = shares.whole(latents)
    callback(step, time, whole)
    latents.copy_(shares.own(whole))  # it may have changed them in place


def denoise_without_guidance(pipeline: Any) -> None:
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

    replace_method(pipeline, "_backbone_forward", make)


def refuse_schedulers_in_stages(pipeline: Any) -> None:
    """Refuse schedulers that PipeFusion's stages cannot share, and let xfuser step on patches where they work at once.

    xfuser 0.7.0: only the last stage steps, so what a scheduler counts or scales by its steps is wrong in the others;
    and on patches each step of a scheduler without xfuser's wrapper counts as many as there are patches.
    """

    def make(original: Any) -> Any:
        def sync_pipeline(self: Any, *args: Any, sync_only: bool = False, **kwargs: Any) -> Any:
            from xfuser.core.distributed import get_pipeline_parallel_world_size, get_sequence_parallel_world_size

            if wanted() and get_pipeline_parallel_world_size() > 1 and get_sequence_parallel_world_size() > 1:
                eta = kwargs.get("extra_step_kwargs", {}).get("eta", 0.0)
                refuse_in_stages(self, eta, patches=not sync_only)
                if not sync_only:
                    self.scheduler.step_on_patches()
            return original(self, *args, sync_only=sync_only, **kwargs)

        return sync_pipeline

    replace_method(pipeline, "_sync_pipeline", make)


def _of(
    name: str,
    shares: Shares,
    *refusals: Callable[[Any, _Arguments], None],
    repairs: tuple[Callable[[Any], None], ...] = (),
) -> Callable[[Any], None]:
    def repair(module: Any) -> None:
        pipeline = getattr(module, name)
        make_one_call_of_all_ranks(pipeline, shares, *refusals)
        for each in repairs:
            each(pipeline)

    return repair


_STAGES = (refuse_schedulers_in_stages,)

_PIPELINES = {
    "pipeline_cogvideox": _of("xFuserCogVideoXPipeline", Shares.ROWS, refuse_guidance_of_one),
    "pipeline_flux": _of("xFuserFluxPipeline", Shares.TOKENS, repairs=_STAGES),
    "pipeline_flux_control": _of("xFuserPipelineFluxControlPipeline", Shares.TOKENS, repairs=_STAGES),
    "pipeline_hunyuandit": _of(
        "xFuserHunyuanDiTPipeline", Shares.ROWS, refuse_guidance_of_one, refuse_rescaled_guidance, repairs=_STAGES
    ),
    "pipeline_latte": _of("xFuserLattePipeline", Shares.ROWS),
    "pipeline_lumina2": _of("xFuserLumina2Pipeline", Shares.WHOLE),
    "pipeline_pixart_alpha": _of("xFuserPixArtAlphaPipeline", Shares.ROWS, refuse_guidance_of_one, repairs=_STAGES),
    "pipeline_pixart_sigma": _of("xFuserPixArtSigmaPipeline", Shares.ROWS, refuse_guidance_of_one, repairs=_STAGES),
    "pipeline_stable_diffusion_3": _of(
        "xFuserStableDiffusion3Pipeline", Shares.ROWS, repairs=(*_STAGES, denoise_without_guidance)
    ),
}
"""Modules of xfuser, each with what its pipeline gets."""

HOOKS = {f"xfuser.model_executor.pipelines.{module}": repair for module, repair in _PIPELINES.items()}
