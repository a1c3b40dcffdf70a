"""``callback_on_step_end``: what it sees, what it changes, and what it does to one rank alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.hosts.xfuser.uses.harness import Call, Expected, Scene, Use, tensors_of

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
STEPS = 4


def calling(make: Callable[[Scene, dict[str, Any]], Callback], *inputs: str, all_inputs: bool = False) -> Call:
    """A call with a callback.

    Args:
        make: Makes the callback; it is given a dictionary for what shall be compared beside the picture.
        *inputs: Tensors that the callback asks for, beside the latents.
        all_inputs: Ask for all that the pipeline offers.
    """

    def call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        seen: dict[str, Any] = {}
        if "callback_on_step_end" not in inspect.signature(type(scene.plain()).__call__).parameters:
            raise TypeError("takes no callback")  # PixArt swallows any argument
        names = ["latents", *inputs]
        if all_inputs:
            names = list(type(scene.plain())._callback_tensor_inputs)
        output = pipe(
            **scene.inputs(steps=STEPS),
            callback_on_step_end=make(scene, seen),
            callback_on_step_end_tensor_inputs=names,
        )
        return {**tensors_of(output), **seen}

    return call


def watch(scene: Scene, seen: dict[str, Any]) -> Callback:
    """Shapes and means of what the callback sees."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        shapes = seen.setdefault("shapes", [])
        for name, value in sorted(tensors.items()):
            parts = value if isinstance(value, list) else [value]
            for part in parts:
                if isinstance(part, Tensor):
                    shapes.append((step, name, tuple(part.shape)))
        seen[f"latents at {step}"] = tensors["latents"].clone()
        seen[f"time at {step}"] = float(time)
        return {}

    return callback


def about_the_mean(scene: Scene, seen: dict[str, Any]) -> Callback:
    """More contrast about the mean of the whole picture."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        x = tensors["latents"]
        return {"latents": x.mean() + 1.5 * (x - x.mean())}

    return callback


def in_place(scene: Scene, seen: dict[str, Any]) -> Callback:
    """Latents changed in place, nothing returned."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["latents"].mul_(0.9)
        return {}

    return callback


def noise(scene: Scene, seen: dict[str, Any]) -> Callback:
    """Noise of the callback's own generator, alike on all ranks."""
    draw = torch.Generator().manual_seed(9)

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        x = tensors["latents"]
        return {"latents": x + 0.1 * torch.randn(x.shape, generator=draw)}

    return callback


def inpainting(scene: Scene, seen: dict[str, Any]) -> Callback:
    """The upper rows of the latents put back to what they were, as in inpainting."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        x = tensors["latents"].clone()
        axis = 1 if x.ndim == 3 else x.ndim - 2
        x.narrow(axis, 0, x.shape[axis] // 3).fill_(0.25)
        return {"latents": x}

    return callback


def guidance_off(value: float, halve: bool) -> Callable[[Scene, dict[str, Any]], Callback]:
    """Guidance ends after two steps, as diffusers' guide has it."""

    def make(scene: Scene, seen: dict[str, Any]) -> Callback:
        def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == 1:
                pipe._guidance_scale = value
                if halve:
                    for name, tensor in tensors.items():
                        if name != "latents" and isinstance(tensor, Tensor) and not tensor.shape[0] % 2:
                            tensors[name] = tensor.chunk(2)[-1]
            return tensors

        return callback

    return make


def cutoff(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Diffusers' own callback that ends guidance."""
    from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback

    kind = SD3CFGCutoffCallback if "3" in type(pipe).__name__ else SDCFGCutoffCallback
    callback = kind(cutoff_step_ratio=0.5, cutoff_step_index=None)
    return tensors_of(pipe(**scene.inputs(steps=STEPS), callback_on_step_end=callback))


def several(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Diffusers' list of callbacks."""
    from diffusers.callbacks import MultiPipelineCallbacks, SD3CFGCutoffCallback

    callback = MultiPipelineCallbacks([SD3CFGCutoffCallback(cutoff_step_ratio=0.5, cutoff_step_index=None)])
    return tensors_of(pipe(**scene.inputs(steps=STEPS), callback_on_step_end=callback))


def other_guidance(scene: Scene, seen: dict[str, Any]) -> Callback:
    """Another guidance scale from the second step on."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[f"scale at {step}"] = pipe.guidance_scale
        pipe._guidance_scale = 2.0
        return {}

    return callback


def other_prompt(scene: Scene, seen: dict[str, Any]) -> Callback:
    """Embeddings that change from step to step."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        x = tensors["prompt_embeds"]
        return {"prompt_embeds": [0.8 * part for part in x] if isinstance(x, list) else 0.8 * x}

    return callback


def every_prompt(scene: Scene, seen: dict[str, Any]) -> Callback:
    """All tensors but the latents that the pipeline offers, scaled."""

    def scaled(x: Any) -> Any:
        if isinstance(x, list):
            return [scaled(part) for part in x]
        return 0.8 * x if isinstance(x, Tensor) and x.is_floating_point() else x

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: scaled(value) for name, value in tensors.items() if name != "latents" and value is not None}

    return callback


def interrupt(scene: Scene, seen: dict[str, Any]) -> Callback:
    """The remaining steps left out."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen["steps"] = step
        if step == 1:
            pipe._interrupt = True
        return {}

    return callback


def attributes(scene: Scene, seen: dict[str, Any]) -> Callback:
    """What the pipeline says of itself while it runs."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for name in ("guidance_scale", "num_timesteps", "current_timestep", "interrupt", "do_classifier_free_guidance"):
            if hasattr(type(pipe), name):
                value = getattr(pipe, name)
                seen[f"{name} at {step}"] = value.tolist() if isinstance(value, Tensor) else value
        seen[f"steps of the scheduler at {step}"] = len(pipe.scheduler.timesteps)
        return {}

    return callback


def decoded(scene: Scene, seen: dict[str, Any]) -> Callback:
    """A preview by the VAE in the callback, where latents are pictures as they are."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen[f"preview {step}"] = pipe.vae.decode(tensors["latents"].clone(), return_dict=False)[0]
        return {}

    return callback


class OwnError(Exception):
    """Of the user's own."""


def raises(rank: int | None) -> Callable[[Scene, dict[str, Any]], Callback]:
    """A callback that raises on one rank, or on all."""

    def make(scene: Scene, seen: dict[str, Any]) -> Callback:
        def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == 1 and not scene.alone and rank in {None, scene.rank}:
                raise OwnError("the disk is full")
            return {}

        return callback

    return make


def of_each_rank(name: str) -> Callable[[Scene, dict[str, Any]], Callback]:
    """A callback that returns another tensor on each rank."""

    def make(scene: Scene, seen: dict[str, Any]) -> Callback:
        def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            value = tensors[name]
            factor = 1 + 0.1 * scene.rank
            return {name: [factor * part for part in value] if isinstance(value, list) else factor * value}

        return callback

    return make


def own_noise(scene: Scene, seen: dict[str, Any]) -> Callback:
    """A callback that draws from the global generator, whose seed is another on each rank."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] + 0.1 * torch.randn(tensors["latents"].shape)}

    return callback


def interrupt_one(scene: Scene, seen: dict[str, Any]) -> Callback:
    """A callback that interrupts one rank alone."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if scene.rank == 1:
            pipe._interrupt = True
        return {}

    return callback


def guidance_of_each_rank(scene: Scene, seen: dict[str, Any]) -> Callback:
    """A callback that sets another guidance scale on each rank."""

    def callback(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 2.0 + scene.rank
        return {}

    return callback


def one_rank_only(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A callback that is passed on the first rank alone and changes the picture."""
    extra = {"callback_on_step_end": about_the_mean(scene, {})} if scene.rank == 0 else {}
    return tensors_of(pipe(**scene.inputs(steps=STEPS), **extra))


def watch_one_rank(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A callback that is passed on the first rank alone and only looks (a progress bar)."""
    extra = {"callback_on_step_end": watch(scene, {})} if scene.rank == 0 else {}
    return tensors_of(pipe(**scene.inputs(steps=STEPS), **extra))


def wrong_name(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A callback that asks for a tensor there is not, on one rank; the pipeline raises there."""
    names = ["latents"] if scene.alone or scene.rank == 0 else ["latents", "no such tensor"]
    return tensors_of(
        pipe(
            **scene.inputs(steps=STEPS),
            callback_on_step_end=watch(scene, {}),
            callback_on_step_end_tensor_inputs=names,
        )
    )


def old_callback(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The callback of older pipelines, which gets the latents."""
    seen: dict[str, Any] = {}

    def callback(step: int, time: Any, latents: Tensor) -> None:
        seen[f"latents at {step}"] = latents.clone()

    return {**tensors_of(pipe(**scene.inputs(steps=STEPS), callback=callback, callback_steps=1)), **seen}


_LATE = Use("", late=True, steps=STEPS)
_LOOKS = replace(_LATE, changes=False)
_REFUSED = Use("", late=True, steps=STEPS, expected=Expected.REFUSED)
USES = {
    "callback-watches": replace(_LOOKS, title="callback that looks at the latents", call=calling(watch)),
    "callback-watches-all": replace(
        _LOOKS, title="callback that looks at all tensors", call=calling(watch, all_inputs=True)
    ),
    "callback-old": replace(_LOOKS, title="callback of the older kind", call=old_callback),
    "callback-contrast": replace(_LATE, title="callback: contrast about the mean", call=calling(about_the_mean)),
    "callback-in-place": replace(_LATE, title="callback: latents changed in place", call=calling(in_place)),
    "callback-noise": replace(_LATE, title="callback: noise of its own generator", call=calling(noise)),
    "callback-inpainting": replace(_LATE, title="callback: rows put back", call=calling(inpainting)),
    "callback-guidance-0": replace(
        _LATE, title="callback: guidance 0 from the third step", call=calling(guidance_off(0.0, False))
    ),
    "callback-guidance-1": replace(
        _LATE, title="callback: guidance 1 from the third step", call=calling(guidance_off(1.0, False))
    ),
    "callback-guidance-halved": replace(
        _LATE,
        title="callback: guidance 0 from the third step, embeddings halved",
        call=calling(guidance_off(0.0, True), all_inputs=True),
    ),
    "callback-guidance-2": replace(_LATE, title="callback: another guidance", call=calling(other_guidance)),
    "callback-cutoff": replace(_LATE, title="diffusers' CFG cutoff callback", call=cutoff),
    "callback-several": replace(_LATE, title="diffusers' MultiPipelineCallbacks", call=several),
    "callback-prompt": replace(
        _LATE, title="callback: embeddings of each step", call=calling(other_prompt, "prompt_embeds")
    ),
    "callback-prompts": replace(
        _LATE, title="callback: all embeddings of each step", call=calling(every_prompt, all_inputs=True)
    ),
    "callback-interrupt": replace(_LATE, title="callback: pipe._interrupt", call=calling(interrupt)),
    "callback-attributes": replace(
        _LOOKS, title="callback: the pipeline's attributes", call=calling(attributes), expected=Expected.RIGHT
    ),
    "callback-decoded": replace(_LOOKS, title="callback: preview by the VAE", call=calling(decoded)),
    "callback-latents-each-rank": replace(
        _REFUSED, title="callback: latents of each rank's own", call=calling(of_each_rank("latents"))
    ),
    "callback-noise-each-rank": replace(
        _LATE, title="callback: noise of the global generators, whose seeds differ", call=calling(own_noise)
    ),
    "callback-prompt-each-rank": replace(
        _REFUSED,
        title="callback: embeddings of each rank's own",
        call=calling(of_each_rank("prompt_embeds"), "prompt_embeds"),
    ),
    "callback-interrupt-each-rank": replace(
        _REFUSED, title="callback: one rank interrupted", call=calling(interrupt_one)
    ),
    "callback-guidance-each-rank": replace(
        _REFUSED, title="callback: guidance of each rank's own", call=calling(guidance_of_each_rank)
    ),
    "callback-one-rank": replace(_REFUSED, title="callback on one rank that changes latents", call=one_rank_only),
    "callback-watch-one-rank": replace(_LOOKS, title="callback on one rank that looks", call=watch_one_rank),
    "callback-wrong-name": replace(_LOOKS, title="callback on one rank asks for no tensor", call=wrong_name),
    "callback-raises-one": replace(
        _LOOKS, title="callback raises on one rank", call=calling(raises(1)), raising=frozenset({1})
    ),
    "callback-raises-all": replace(
        _LOOKS, title="callback raises on all ranks", call=calling(raises(None)), raising=frozenset({0, 1})
    ),
}
