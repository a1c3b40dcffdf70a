"""What xfuser 0.7.0 gets wrong in its own pipelines, beside attention: schedulers, callbacks, guidance, arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from tokenring_xdit.attention import guarded
from tokenring_xdit.errors import TokenRingError, UnsupportedError
from tokenring_xdit.hosts.agreement import (
    agree_on_arguments,
    agree_on_inputs,
    describe,
    noise_of_the_first_rank,
)
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import OwnPipeline, Shares
from tokenring_xdit.hosts.xfuser.repairs.common import pipeline_name, replace_method, sequence_parallel_ranks, wanted
from tokenring_xdit.hosts.xfuser.repairs.latents import share_of, whole_of
from tokenring_xdit.hosts.xfuser.repairs.schedulers import refuse_in_stages, step_on_the_whole_picture

__all__ = ["repair"]

_INSTEAD = "or tokenring_xdit.parallelize with the diffusers pipeline"

_Arguments = dict[str, Any]


def make_one_call_of_all_ranks(pipeline: Any, own: OwnPipeline, *refusals: Callable[[Any, _Arguments], None]) -> None:
    """Let a pipeline of xfuser's do what the diffusers one does with a scheduler, a callback and global generators.

    Args:
        pipeline: xfuser's class.
        own: What is known of it.
        *refusals: Refusals of what xfuser computes wrongly there, given the pipeline and the arguments of a call.
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
            show_callbacks_the_whole_picture(self, arguments, own)
            with (
                guarded(None, "the call of the pipeline"),
                noise_of_the_first_rank(self.module._execution_device),
                step_on_the_whole_picture(self, own.shares),
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


def show_callbacks_the_whole_picture(wrapper: Any, arguments: _Arguments, own: OwnPipeline) -> None:
    """Give callbacks the whole latents, and take the rank's share of what they make of them.

    xfuser 0.7.0: they see a rank's share, and what they return is taken for that (SD3 with a contrast about the mean:
    7e-3 off).

    Args:
        wrapper: xfuser's pipeline.
        arguments: Those of the call, which are changed.
        own: What is known of the pipeline.
    """
    if arguments.get("callback_on_step_end") is not None:
        arguments["callback_on_step_end"] = partial(_step_end, arguments["callback_on_step_end"], own)
        arguments["callback_on_step_end_tensor_inputs"] = ["latents"]
    elif arguments.get("callback") is not None:
        arguments["callback"] = partial(_legacy, arguments["callback"], own.shares)


def _step_end(callback: Any, own: OwnPipeline, wrapper: Any, step: int, time: Any, tensors: dict[str, Any]) -> Any:

    def switches() -> dict[str, Any]:
        return {name: getattr(wrapper, name, None) for name in own.switches}

    before = switches()
    whole = whole_of(own.shares, tensors["latents"])
    returned = callback(wrapper, step, time, {"latents": whole}) or {}
    lost = set(returned) - {"latents"} | {name for name, value in switches().items() if value != before[name]}
    if lost:
        raise UnsupportedError(
            f"callback_on_step_end changed {', '.join(sorted(lost))}, and xfuser's {type(wrapper).__name__} would not "
            f"look at that again: change latents only, {_INSTEAD}"
        )
    changed = returned.get("latents", whole)
    if not _replicated():
        agree_on_inputs("pipeline", {"latents": changed, "interrupt": getattr(wrapper, "_interrupt", False)})
    return {"latents": share_of(own.shares, changed)}


def _legacy(callback: Any, shares: Shares, step: int, time: Any, latents: Tensor) -> None:
    whole = whole_of(shares, latents)
    callback(step, time, whole)
    latents.copy_(share_of(shares, whole))  # it may have changed them in place


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


def repair(own: OwnPipeline, module: Any) -> None:
    """Repair one of xfuser's own pipelines by what is known of it.

    Args:
        own: What is known.
        module: xfuser's module.
    """
    pipeline = getattr(module, own.name)
    refusals = [] if own.guidance_of_one else [refuse_guidance_of_one]
    refusals += [] if own.rescaled_guidance else [refuse_rescaled_guidance]
    if own.stages and not own.patches:
        refuse_patches_at_once(pipeline)
    make_one_call_of_all_ranks(pipeline, own, *refusals)
    if own.stages:
        refuse_schedulers_in_stages(pipeline)
