"""On the worker ranks: xfuser's own pipelines and transformers in uses beyond a plain call, against one process.

Schedulers that draw noise or look at the whole picture, callbacks, guidance, a LoRA that is scaled for the call. The
ranks' global generators differ, as they do under torchrun.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from tests.hosts.xfuser.generation import Case, alone, engine, latents_of, with_wrapped_transformer
from tests.support.families import ALL_FAMILIES, Entry, Family
from tests.support.reference import relative_error

SEED = 77
"""Of the global generator, in one process and on the first rank."""


@dataclass(frozen=True)
class Use:
    """One generation.

    Attributes:
        case: The family, and how it is spread.
        scheduler: A class of diffusers that takes the place of the pipeline's scheduler.
        options: Options of that scheduler.
        call: Arguments of the call, beside those of the case.
        seeded: Whether the call is given a generator.
        callback: Name of one of :data:`CALLBACKS`, which the call is given.
        lora: Whether the transformer has a LoRA.
        swapped: Whether the scheduler is exchanged after xfuser has wrapped the pipeline.
        of_each_rank: Whether each rank's generator has another seed.
    """

    case: Case
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    callback: str | None = None
    lora: bool = False
    swapped: bool = False
    of_each_rank: bool = False

    @property
    def family(self) -> Family:
        """What is generated with."""
        return ALL_FAMILIES[self.case.family]

    def arguments(self) -> dict[str, Any]:
        """Of the call, good for one."""
        arguments = {**self.family.inputs(**self.case.inputs), **self.call}
        if self.of_each_rank:
            arguments["generator"] = torch.Generator().manual_seed(dist.get_rank())
        if not self.seeded:
            arguments["generator"] = None
        if self.callback is not None:
            arguments.update(CALLBACKS[self.callback])
        return arguments

    def exchange_scheduler(self, pipe: Any) -> None:
        """Give a pipeline the scheduler."""
        if self.scheduler is not None:
            pipe.scheduler = getattr(diffusers, self.scheduler).from_config(dict(pipe.scheduler.config), **self.options)


@torch.no_grad()
def error(use: Use) -> float | None:
    """Largest difference to one process, relative to its scale; ``None`` on ranks without an output."""
    expected = alone(lambda own: _one_process(replace(use, case=own)), use.case)
    actual = generate(use)
    return None if actual is None else relative_error(actual, expected)


def _one_process(use: Use) -> Tensor:
    pipe = use.family.make(**use.case.make)
    use.exchange_scheduler(pipe)
    if use.lora:
        _load_lora(pipe)
    torch.manual_seed(SEED)
    latents = latents_of(pipe(**use.arguments()))
    assert latents is not None
    return latents


@torch.no_grad()
def generate(use: Use) -> Tensor | None:
    """The latents that xfuser makes; ``None`` on ranks that it gives none."""
    with engine(use.case) as config:
        pipe = _spread(use, config)
        torch.manual_seed(SEED + dist.get_rank())
        return latents_of(pipe(**use.arguments()))


def _spread(use: Use, config: Any) -> Any:
    if use.family.entry is Entry.PIPELINE:
        pipe = use.family.make(**use.case.make)
        if use.lora:
            _load_lora(pipe)
        if not use.swapped:
            use.exchange_scheduler(pipe)
        wrapped = use.family.wrapper_class()(pipe, config)
        if use.swapped:
            use.exchange_scheduler(pipe)
        return wrapped
    pipe = with_wrapped_transformer(use.family, config, use.case, use.arguments())
    if use.lora:
        _load_lora(pipe)
    use.exchange_scheduler(pipe)
    return pipe


def _load_lora(pipe: Any) -> None:
    state = lora_state(pipe.transformer)
    if hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(state)
    else:  # that of HunyuanVideo 1.5 does not load any
        pipe.transformer.load_lora_adapter(state, prefix="transformer")


def lora_state(transformer: torch.nn.Module) -> dict[str, Tensor]:
    """A random LoRA for the projections of a transformer's attention."""
    draw, state = torch.Generator().manual_seed(0), {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            out, into = layer.weight.shape
            state[f"transformer.{name}.lora_A.weight"] = torch.randn(4, into, generator=draw) / into**0.5
            state[f"transformer.{name}.lora_B.weight"] = 0.3 * torch.randn(out, 4, generator=draw)
    return state


class InsideOfABlock(Exception):
    """Raised to see what a call leaves behind."""


def lora_strength_after_an_error(case: Case) -> set[float]:
    """Scales of the LoRA layers of a transformer after a call that was to scale them by a half, and raised."""
    use = Use(case, call={"attention_kwargs": {"scale": 0.5}}, lora=True)
    with engine(case) as config:
        pipe = _spread(use, config)

        def fail(*args: Any) -> None:
            raise InsideOfABlock

        pipe.transformer.transformer_blocks[0].register_forward_pre_hook(fail)
        with suppress(InsideOfABlock):
            pipe(**use.arguments())
        layers = [layer for layer in pipe.transformer.modules() if isinstance(layer, BaseTunerLayer)]
        return {scale for layer in layers for scale in layer.scaling.values()}


SEEN: set[tuple[int, ...]] = set()
"""Shapes of the latents that callbacks of this process saw."""


def shapes_seen(use: Use) -> set[tuple[int, ...]]:
    """Shapes of the latents that the callback of a call sees."""
    with engine(use.case) as config:
        pipe = _spread(use, config)
        SEEN.clear()
        pipe(**use.arguments())
    return set(SEEN)


def _about_the_mean(latents: Tensor) -> Tensor:
    SEEN.add(tuple(latents.shape))
    return latents.mean() + 1.5 * (latents - latents.mean())


def _return_contrast(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {"latents": _about_the_mean(tensors["latents"])}


def _contrast_in_place(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    tensors["latents"].copy_(_about_the_mean(tensors["latents"]))
    return {}


def _legacy_contrast_in_place(step: int, time: Any, latents: Tensor) -> None:
    latents.copy_(_about_the_mean(latents))


def _contrast_of_this_rank(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {"latents": tensors["latents"] * (1 + dist.get_rank())}


def _interrupt_one_rank(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._interrupt = dist.get_rank() == 1
    return tensors


def _switch_guidance_off(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._guidance_scale = 1.0
    return tensors


CALLBACKS: dict[str, dict[str, Any]] = {
    "contrast": {"callback_on_step_end": _return_contrast},
    "contrast in place": {"callback_on_step_end": _contrast_in_place},
    "legacy contrast": {"callback": _legacy_contrast_in_place, "callback_steps": 1},
    "contrast of this rank": {"callback_on_step_end": _contrast_of_this_rank},
    "interrupt": {"callback_on_step_end": _interrupt_one_rank},
    "guidance": {"callback_on_step_end": _switch_guidance_off},
    "embeddings": {
        "callback_on_step_end": _return_contrast,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    },
}
"""Arguments of a call, by name: callbacks themselves do not travel to the ranks."""
