"""Schedulers before and after ``parallelize``: those that draw noise, and those that look at the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.hosts.xfuser.uses.harness import Call, Change, Expected, Scene, Use, called

STEPS = 4


def swap(name: str, **options: Any) -> Change:
    """Another scheduler of diffusers, made from the old one's options."""

    def change(pipe: Any, scene: Scene) -> None:
        import diffusers

        kind = getattr(diffusers, name)
        if name.startswith("FlowMatch") and not _flows(pipe.scheduler):
            raise TypeError("noise that is added otherwise")
        more = dict(options)
        if _flows(pipe.scheduler) and not name.startswith("FlowMatch"):
            more |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        pipe.scheduler = kind.from_config(dict(pipe.scheduler.config), **more)

    return change


def _flows(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def user_scheduler(pipe: Any, scene: Scene) -> None:
    """A user's class that looks at the whole picture and draws noise from the global generator."""
    base = type(pipe.scheduler)

    class Own(base):  # type: ignore[misc, valid-type]
        def step(self, model_output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = super().step(model_output, timestep, sample, *args, **kwargs)
            parts = list(result) if isinstance(result, tuple) else None
            latents = parts[0] if parts else result.prev_sample
            latents = latents.mean() + 1.1 * (latents - latents.mean()) + 0.1 * torch.randn(latents.shape)
            if parts:
                return (latents, *parts[1:])
            result.prev_sample = latents
            return result

    pipe.scheduler = Own.from_config(dict(pipe.scheduler.config))


def seeded(extra: Mapping[str, Any] | None = None) -> Call:
    """A call of four steps with a generator."""
    return called(lambda pipe, scene: dict(extra or {}), steps=STEPS)


def unseeded(extra: Mapping[str, Any] | None = None) -> Call:
    """The same without."""
    return called(lambda pipe, scene: {**(extra or {}), "generator": None}, steps=STEPS)


def both_seeds(scene_call: Callable[..., Call], **extra: Any) -> Call:
    """Calls of a seeded kind twice, so that state left over from the first shows."""
    call = scene_call(extra)

    def twice(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        first = call(pipe, scene)
        return {**call(pipe, scene), "first": first["latents"]}

    return twice


def exchanged(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The same scheduler made anew between two calls."""
    found = {**seeded()(pipe, scene)}
    pipe.scheduler = type(pipe.scheduler).from_config(dict(pipe.scheduler.config))
    return {**found, "second": seeded()(pipe, scene)["latents"]}


SWAPS: dict[str, tuple[str, Change, dict[str, Any]]] = {
    "flow-stochastic": (
        "flow matching, stochastic_sampling",
        swap("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
        {},
    ),
    "flow-euler": ("flow matching, Euler", swap("FlowMatchEulerDiscreteScheduler", shift=2.0), {}),
    "flow-lcm": ("flow matching, LCM", swap("FlowMatchLCMScheduler"), {}),
    "flow-heun": ("flow matching, Heun", swap("FlowMatchHeunDiscreteScheduler"), {}),
    "unipc": ("UniPC", swap("UniPCMultistepScheduler", solver_order=3), {}),
    "unipc-thresholding": ("UniPC, thresholding", swap("UniPCMultistepScheduler", thresholding=True), {}),
    "dpm": ("DPM-Solver++", swap("DPMSolverMultistepScheduler", solver_order=3), {}),
    "dpm-sde": ("SDE-DPM-Solver++", swap("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"), {}),
    "dpm-thresholding": (
        "DPM-Solver++, thresholding",
        swap("DPMSolverMultistepScheduler", thresholding=True, sample_max_value=1.5),
        {},
    ),
    "dpm-single": ("DPM-Solver++, single step", swap("DPMSolverSinglestepScheduler", final_sigmas_type="zero"), {}),
    "dpm-single-sde": (
        "SDE-DPM-Solver++, single step",
        swap("DPMSolverSinglestepScheduler", algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"),
        {},
    ),
    "deis": ("DEIS", swap("DEISMultistepScheduler"), {}),
    "sa": ("SA-Solver", swap("SASolverScheduler"), {}),
    "ddim": ("DDIM", swap("DDIMScheduler"), {}),
    "ddim-eta": ("DDIM, eta in the call", swap("DDIMScheduler"), {"eta": 0.8}),
    "ddim-thresholding": (
        "DDIM, thresholding",
        swap("DDIMScheduler", thresholding=True, clip_sample=False, sample_max_value=1.5),
        {},
    ),
    "ddpm": ("DDPM", swap("DDPMScheduler", clip_sample=False), {}),
    "ddpm-learned": ("DDPM, variance fixed large", swap("DDPMScheduler", variance_type="fixed_large"), {}),
    "euler": ("Euler", swap("EulerDiscreteScheduler"), {}),
    "euler-ancestral": ("Euler ancestral", swap("EulerAncestralDiscreteScheduler"), {}),
    "heun": ("Heun", swap("HeunDiscreteScheduler"), {}),
    "kdpm2-ancestral": ("KDPM2 ancestral", swap("KDPM2AncestralDiscreteScheduler"), {}),
    "lms": ("LMS", swap("LMSDiscreteScheduler"), {}),
    "pndm": ("PNDM", swap("PNDMScheduler", skip_prk_steps=True), {}),
    "lcm": ("LCM", swap("LCMScheduler"), {}),
    "tcd": ("TCD, eta in the call", swap("TCDScheduler"), {"eta": 0.5}),
    "cogvideox-ddim-eta": ("CogVideoX DDIM, eta in the call", swap("CogVideoXDDIMScheduler"), {"eta": 0.8}),
    "user": ("a user's own, noise and mean", user_scheduler, {}),
}

USES: dict[str, Use] = {}
for key, (title, change, extra) in SWAPS.items():
    # Global seeds of the ranks differ in all of these.
    given, drawn = seeded(extra), unseeded(extra)
    if key == "flow-heun":  # four steps are seven calls of the model: 1.2e-5 of rounding alone
        given = called(steps=2)
    USES[f"{key}-before"] = Use(
        f"{title}; set before", before=change, call=given, steps=2 if key == "flow-heun" else STEPS
    )
    USES[f"{key}-after"] = Use(
        f"{title}; set after", after=change, call=given, steps=2 if key == "flow-heun" else STEPS
    )
    if key in {"flow-stochastic", "dpm-sde", "ddpm", "ddim-eta", "euler-ancestral", "lcm", "flow-lcm", "user", "euler"}:
        USES[f"{key}-unseeded"] = Use(
            f"{title}; set before, no generator", before=change, call=drawn, expected=Expected.ALIKE, steps=STEPS
        )
USES["scheduler-between"] = Use(
    "scheduler exchanged between two calls",
    call=exchanged,
    changes=False,
)
USES["scheduler-twice"] = Use("two calls one after another", call=both_seeds(seeded), changes=False)
USES["unseeded"] = Use("no generator, global seeds that differ", call=unseeded(), expected=Expected.ALIKE)
