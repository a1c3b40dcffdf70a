"""On the worker ranks: what people do with one pipeline one after the other, while its calls are replayed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FluxImg2ImgPipeline
from torch import Tensor

from tests.hosts.xfuser.generation import Case, latents_of
from tests.hosts.xfuser.graphs import recorder, spread
from tests.hosts.xfuser.stepping import lora_state
from tests.support.families import ALL_FAMILIES
from tests.support.families.pictures import two_colours
from tests.support.ranks import rank_device
from tests.support.reference import relative_error
from tokenring_xdit.graphs import GraphReport
from tokenring_xdit.hosts.calls import Output, spread_over_ranks
from tokenring_xdit.hosts.xfuser import AttentionBackend, graph_reports
from tokenring_xdit.hosts.xfuser.host import XfuserHost
from tokenring_xdit.parallel import ParallelDims

__all__ = ["CASE", "DAY", "Moment", "day"]

CASE = Case("flux", tokenring=2)
_STEPS = 4


@dataclass(frozen=True)
class Moment:
    """A change, and the call after it.

    Attributes:
        change: What is done to the pipeline.
        options: Of the call.
        dtype: Of the call.
        picture: Whether another pipeline around the same parts starts from a picture.
    """

    change: Callable[[Any], object] = lambda pipe: None
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    picture: bool = False


def _moved(model: Any) -> None:
    """Put each weight elsewhere, as ``.to`` of another device and back does."""
    kept = [weight.data for weight in model.parameters()]
    model._apply(lambda weight: weight.clone())
    del kept


def _weights(change: Callable[[Tensor], object]) -> Callable[[Any], None]:
    def change_all(pipe: Any) -> None:
        with torch.no_grad():
            for weight in pipe.transformer.parameters():
                change(weight)

    return change_all


DAY: dict[str, Moment] = {
    "as it is": Moment(),
    "another prompt": Moment(options={"prompts": ["a boat at night"]}),
    "another size": Moment(options={"height": 48, "width": 64}),
    "two prompts": Moment(options={"prompts": ["a red fox", "a boat at night"]}),
    "two pictures": Moment(options={"images_per_prompt": 2}),
    "a negative prompt": Moment(options={"true_cfg_scale": 3.0}),
    "without it": Moment(options={"prompts": ["a fox"]}),
    "other guidance": Moment(options={"guidance_scale": 1.5}),
    "a LoRA": Moment(lambda pipe: pipe.load_lora_weights(lora_state(pipe.transformer), adapter_name="one")),
    "half of it": Moment(lambda pipe: pipe.set_adapters("one", 0.5)),
    "off": Moment(lambda pipe: pipe.disable_lora()),
    "on": Moment(lambda pipe: pipe.enable_lora()),
    "strength by argument": Moment(options={"joint_attention_kwargs": {"scale": 0.3}}),
    "fused": Moment(lambda pipe: pipe.fuse_lora()),
    "not fused": Moment(lambda pipe: pipe.unfuse_lora()),
    "without a LoRA": Moment(lambda pipe: pipe.unload_lora_weights()),
    "another scheduler": Moment(
        lambda pipe: setattr(
            pipe, "scheduler", FlowMatchHeunDiscreteScheduler.from_config({"num_train_timesteps": 1000})
        )
    ),
    "from a picture": Moment(picture=True),
    "weights in place": Moment(_weights(lambda weight: weight.mul_(0.9))),
    "weights behind torch's back": Moment(_weights(lambda weight: weight.data.mul_(1.1))),
    "moved": Moment(lambda pipe: _moved(pipe.transformer)),
    "bf16": Moment(lambda pipe: pipe.to(torch.bfloat16), dtype=torch.bfloat16),
    "fp32 again": Moment(lambda pipe: pipe.to(torch.float32)),
    "deterministic": Moment(lambda pipe: torch.use_deterministic_algorithms(True, warn_only=True)),
}


@dataclass(frozen=True)
class Passed:
    """How a moment went on one rank.

    Attributes:
        error: Beside one process.
        effect: What it changed in one process.
        report: What had become of all calls.
    """

    error: float
    effect: float
    report: GraphReport


@torch.no_grad()
def day() -> dict[str, Passed]:
    """All of it in one process, then on all ranks."""
    try:
        alone = ALL_FAMILIES[CASE.family].make(**CASE.make).to(rank_device())
        expected = {name: _made(alone, moment, None) for name, moment in DAY.items()}
        torch.use_deterministic_algorithms(False)
        found: dict[str, Passed] = {}
        before = expected["as it is"]
        with spread(CASE) as pipe:
            for name, moment in DAY.items():
                right = expected[name]
                alike = right.shape == before.shape
                found[name] = Passed(
                    relative_error(_made(pipe, moment, CASE), right),
                    relative_error(right, before) if alike else 1.0,
                    graph_reports(pipe)["transformer"],
                )
                before = right
        return found
    finally:
        torch.use_deterministic_algorithms(False)


def _made(pipe: Any, moment: Moment, shared: Case | None) -> Tensor:
    moment.change(pipe)
    more = {name: moment.options[name] for name in moment.options if name.endswith("_kwargs")}
    options = {name: value for name, value in moment.options.items() if name not in more}
    inputs = {**ALL_FAMILIES[CASE.family].inputs(steps=_STEPS, **options), **more}
    with ExitStack() as stack:
        if moment.picture:
            plain = pipe if shared is None else type(pipe).__mro__[1](**pipe.components)
            pipe = FluxImg2ImgPipeline.from_pipe(plain)
            pipe.set_progress_bar_config(disable=True)
            stack.callback(pipe.set_progress_bar_config, disable=True)
            inputs |= {"image": two_colours(32, 48), "strength": 0.9}
            if shared is not None:
                dims = ParallelDims(tokenring=shared.tokenring)
                spread_over_ranks(pipe, lambda: XfuserHost(dims, AttentionBackend.AUTO, recorder), Output.EVERY_RANK)
        made = latents_of(pipe(**inputs))
    assert made is not None
    return made
