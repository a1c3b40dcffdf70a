"""What xfuser 0.7.0 gets wrong with schedulers in its own pipelines, which step on each rank's share of the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from torch import Tensor

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.family import Shares
from tokenring_xdit.hosts.xfuser.repairs.latents import share_of, whole_of

__all__ = ["plain", "refuse_in_stages", "step_on_the_whole_picture"]


@contextmanager
def step_on_the_whole_picture(wrapper: Any, shares: Shares) -> Iterator[None]:
    """Inside, the scheduler of a pipeline steps on the whole latents, as in one process.

    xfuser 0.7.0: its pipelines step the scheduler on each rank's share. So all ranks add the same noise to different
    rows, or each draws noise of its own, and what is computed over all of the latents (dynamic thresholding) is
    computed over some of them (up to 1.4 off, the output's scale being 1). The wrappers that it puts around schedulers
    ignore ``stochastic_sampling``, and hide from the pipeline that a scheduler takes ``eta`` and ``generator``; and its
    CogVideoX fails with schedulers that have no wrapper.

    Args:
        wrapper: xfuser's pipeline.
        shares: What a rank holds of its latents.
    """
    pipe, own = wrapper.module, wrapper.scheduler
    exchanged = [vars(owner) for owner in (wrapper, pipe) if "scheduler" in vars(owner)]
    before = [names["scheduler"] for names in exchanged]
    # Past diffusers, which would write down the class of what it is given in the pipeline's config.
    for names in exchanged:
        names["scheduler"] = _WholeScheduler(own, shares)
    try:
        yield
    finally:
        for names, scheduler in zip(exchanged, before, strict=True):
            names["scheduler"] = scheduler


class _WholeScheduler:
    """A scheduler of diffusers that is handed a rank's share of the latents, and steps on the whole.

    Args:
        scheduler: The scheduler, or xfuser's wrapper around it.
        shares: What a rank holds.
    """

    def __init__(self, scheduler: Any, shares: Shares) -> None:
        vars(self).update(module=plain(scheduler), _own=scheduler, _shares=shares, _patches=False)
        # An attribute, with the signature in which pipelines look for eta and generator.
        vars(self)["step"] = wraps(self.module.step)(partial(_WholeScheduler._step, self))

    def step_on_patches(self) -> None:
        """Leave it to xfuser's wrapper from now on, which counts the steps of all patches as one."""
        vars(self)["_patches"] = True

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        if self._patches:
            return self._own.step(*args, **kwargs)
        whole, own = (partial(_change_latents, partial(change, self._shares)) for change in (whole_of, share_of))
        outputs = self.module.step(*map(whole, args), **{name: whole(value) for name, value in kwargs.items()})
        return tuple(map(own, outputs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.module, name, value)


def plain(scheduler: Any) -> Any:
    """The scheduler of diffusers, without what xfuser or this module put around it."""
    from xfuser.model_executor.schedulers.base_scheduler import xFuserSchedulerBaseWrapper

    return scheduler.module if isinstance(scheduler, (xFuserSchedulerBaseWrapper, _WholeScheduler)) else scheduler


def _change_latents(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Change latents and what is of their form, and nothing else, such as timesteps."""
    return change(value) if isinstance(value, Tensor) and value.ndim > 2 else value


_IN_STAGES = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
"""Schedulers that need nothing of their steps in the stages before the last, which alone steps."""


def refuse_in_stages(wrapper: Any, eta: float, patches: bool) -> None:
    """Refuse schedulers that PipeFusion's stages cannot share.

    Args:
        wrapper: xfuser's pipeline.
        eta: The share of noise that a DDIM scheduler is to add.
        patches: Whether the stages work at once, each on another patch.

    Raises:
        UnsupportedError: The scheduler is one of those.
    """
    import diffusers

    scheduler = plain(wrapper.scheduler)
    name, config = type(scheduler).__name__, scheduler.config
    if name not in _IN_STAGES or type(scheduler) is not getattr(diffusers, name):
        why = f"PipeFusion was compared with {', '.join(_IN_STAGES)} only"
    elif not patches:
        return
    elif (
        name == "DDPMScheduler"
        or eta
        or config.get("stochastic_sampling")
        or config.get("algorithm_type", "").startswith("sde")
    ):
        why = "it adds noise to the whole picture, of which PipeFusion steps on one patch at a time"
    elif config.get("thresholding"):
        why = "it looks at the whole picture, of which PipeFusion steps on one patch at a time"
    else:
        return
    raise UnsupportedError(
        f"{name} was asked for together with PipeFusion and TokenRing: {why}. Use another scheduler, or "
        "pipefusion_parallel_degree=1, or tokenring_xdit.parallelize with the diffusers pipeline"
    )
