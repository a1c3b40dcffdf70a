"""What the worker ranks do: pipelines and models that diffusers' own context parallel spreads, beside one process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.ranks import by_the_first, rank_device
from tests.support.reference import relative_error
from tests.support.small import peaky, small
from tokenring_xdit import ContextParallelConfig, parallelize
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts import installed
from tokenring_xdit.hosts.diffusers import cut as cutting
from tokenring_xdit.hosts.diffusers import undo
from tokenring_xdit.hosts.diffusers.attention import Site

TWO_PROMPTS = ["a red fox in the snow", "a boat"]


@dataclass(frozen=True)
class Case:
    """One pipeline, called on all ranks.

    Attributes:
        family: Key of the pipeline, for :func:`tests.support.small.small`.
        schedule: What the ranks exchange.
        make: Options of the pipeline.
        calls: Options of each of its calls.
    """

    family: str
    schedule: str = "token_ring"
    make: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[Mapping[str, Any], ...] = ({},)


def make(case: Case) -> Any:
    """The unmodified pipeline, with attention that is far from uniform."""
    return peaky(case.family, **case.make)


def inputs(case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call that returns latents; the option ``without`` names those that are left out."""
    left_out = options.get("without", ())
    found = small(case.family).inputs(**{name: value for name, value in options.items() if name != "without"})
    return {name: value for name, value in found.items() if name not in left_out}


def latents_of(output: Any) -> Tensor:
    """The tensor in a pipeline's output."""
    found: Any = getattr(output, "images", getattr(output, "frames", None))
    latents: Tensor = torch.stack(found) if isinstance(found, list) else found
    return latents


def seeded(pipe: Any, case: Case, options: Mapping[str, Any]) -> list[Tensor]:
    """What a call makes: pictures or a video, and sound where there is any."""
    torch.manual_seed(7)  # some pipelines draw a part of their noise without the generator
    output = pipe(**inputs(case, options))
    sound = getattr(output, "audio", None)
    return [latents_of(output), *([] if sound is None else [sound])]


@torch.no_grad()
def worst(case: Case, fault: str = "") -> float:
    """Largest difference of any call to one process, relative to its scale.

    Args:
        case: What is called.
        fault: A deliberate fault of :data:`FAULTS`, which has to show.
    """
    expected = by_the_first(lambda: [seeded(make(case), case, options) for options in case.calls])
    pipe = make(case)
    parallelize(pipe, tokenring_degree=dist.get_world_size(), schedule=case.schedule, host="diffusers")
    with FAULTS[fault]():
        found = [seeded(pipe, case, options) for options in case.calls]
    pairs = ((own, other) for parts in zip(found, expected, strict=True) for own, other in zip(*parts, strict=True))
    return max(relative_error(own, other) for own, other in pairs)


def all_of(cases: list[Case]) -> dict[str, float]:
    """:func:`worst` of several pipelines, one after the other."""
    return {case.family: worst(case) for case in cases}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _in_place_of(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _dropped_mask() -> Any:
    def make(attend: Any) -> Any:
        return lambda self, q, k, v, mask, scale, kernel: attend(self, q, k, v, None, scale, kernel)

    return _in_place_of(Site, "attend", make)


def _wrong_positions() -> Any:
    """Another rank's part of what a module puts out, or of a table of positions."""

    def make(own: Any) -> Any:
        def other(whole: Tensor, dim: int) -> Any:
            tokens = whole.ndim > 2 and dim == 1 and whole.shape[-1] > 16
            return own(whole if tokens else whole.roll(1, dim), dim)

        return other

    return _in_place_of(cutting, "_own", make)


def _off_by_one() -> Any:
    def make(share: Any) -> Any:
        def other(length: int, ranks: int, rank: int) -> tuple[int, int]:
            first, count = share(length, ranks, rank)
            return (first - 1, count) if rank and count else (first, count)

        return other

    return _in_place_of(cutting, "share", make)


def _wrong_residuals() -> Any:
    """What a ControlNet says of other tokens."""

    def make(split: Any) -> Any:
        def other(self: Any, name: Any, how: Any, whole: Any) -> Any:
            found = split(self, name, how, whole)
            return tuple(each.roll(1, 1) for each in found) if "control" in str(name) else found

        return other

    return _in_place_of(cutting.ModelCut, "_split", make)


FAULTS: dict[str, Callable[[], Any]] = {
    "": _nothing,
    "dropped mask": _dropped_mask,
    "wrong positions": _wrong_positions,
    "off by one": _off_by_one,
    "wrong residuals": _wrong_residuals,
}
"""Deliberate faults by name."""


@torch.no_grad()
def enabled(family: str) -> dict[str, Any]:
    """``enable_parallelism`` with this package's config, called for the transformer alone."""
    case = Case(family)
    plain, pipe = make(case), make(case)
    expected = by_the_first(lambda: latents_of(plain(**inputs(case, {}))))
    config = ContextParallelConfig(tokenring_degree=dist.get_world_size(), schedule="auto")
    pipe.transformer.enable_parallelism(config=config)
    changes = [change.what for change in installed().changes]
    error = relative_error(latents_of(pipe(**inputs(case, {}))), expected)
    said = said_to(lambda: pipe.transformer.enable_parallelism(config=config))
    undo(pipe)
    alone = relative_error(latents_of(pipe(**inputs(case, {}))), expected)
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.transformer.modules())
    same = type(pipe.transformer) is type(plain.transformer)
    return {"error": error, "alone": alone, "again": said, "changes": changes, "hooks": hooks, "same": same}


def said_to(call: Callable[[], Any]) -> str:
    """What this package says to a call that it refuses."""
    try:
        call()
    except TokenRingError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusals() -> dict[str, str]:
    """What is said to what was not compared, before anything is computed."""
    ranks = dist.get_world_size()

    def spread(pipe: Any, **options: Any) -> str:
        return said_to(lambda: parallelize(pipe, host="diffusers", **{"tokenring_degree": ranks, **options}))

    flux = make(Case("flux"))
    flux.transformer.set_attention_backend("_native_math")
    other = make(Case("flux"))
    said = {
        "backend before": spread(flux),
        "pipeline": spread(type("SanaPipeline", (), {"__module__": "diffusers"})()),
        "degree": spread(other, tokenring_degree=ranks + 1),
        "ulysses": spread(other, ulysses_degree=2),
        "kernel": spread(other, attention_backend="cudnn"),
        "schedule": spread(other, schedule="no_such_thing"),
        "host": said_to(lambda: parallelize(other, host="megatron")),
    }
    flux.transformer.set_attention_backend("native")
    forcing = make(Case("skyreels-v2-forcing"))
    parallelize(forcing, tokenring_degree=ranks, host="diffusers")
    in_blocks = {**inputs(Case("skyreels-v2-forcing"), {}), "causal_block_size": 3}
    said["blocks of frames"] = said_to(lambda: forcing(**in_blocks))
    config = ContextParallelConfig(tokenring_degree=ranks)
    said["model"] = said_to(lambda: other.vae.enable_parallelism(config=config))
    said["plan"] = said_to(lambda: other.transformer.enable_parallelism(config=config, cp_plan={}))
    parallelize(other, tokenring_degree=ranks, host="diffusers")
    said["backend after"] = said_to(lambda: other.transformer.set_attention_backend("_native_math"))
    other.transformer.set_attention_backend("_native_flash")
    said["kernel of GPUs"] = said_to(lambda: other(**inputs(Case("flux"), {})))
    other.transformer.set_attention_backend("native")
    said["other host"] = said_to(lambda: parallelize(other_pipeline(other), tokenring_degree=ranks, host="xfuser"))
    from diffusers.models.attention_dispatch import attention_backend

    for processor in other.transformer.attn_processors.values():
        processor._attention_backend = None  # which was set above

    def inside() -> None:
        with attention_backend("_native_math"):
            other(**inputs(Case("flux"), {}))

    said["backend inside"] = said_to(inside)
    installed().undo()
    installed().attach("a_module_of_another_host", lambda module: None)
    said["undone"] = said_to(lambda: other(**inputs(Case("flux"), {})))
    return said


def refused_arguments() -> dict[str, str]:
    """What transformers say to arguments that were not compared, before anything is computed."""
    holes = {"inside": [[1, 1, 0, 1]], "in front": [[1, 1, 1, 1], [0, 0, 1, 1]]}
    mask = torch.ones(1, 4)
    mask[0, 0] = 0.5  # of the first rank alone
    tried: dict[str, tuple[str, dict[str, Any]]] = {
        **{f"hole {name}": ("mochi", {"encoder_attention_mask": torch.tensor(rows)}) for name, rows in holes.items()},
        "half": ("chroma", {"attention_mask": mask}),
        "perturbed": ("ltx2", {"perturbation_mask": torch.zeros(1)}),
        "xlabs": ("flux", {"controlnet_blocks_repeat": True}),
    }
    pipes = {family: make(Case(family)) for family, _ in tried.values()}
    for pipe in pipes.values():
        parallelize(pipe, tokenring_degree=dist.get_world_size(), host="diffusers")
    return {what: _told(pipes[family].transformer, given) for what, (family, given) in tried.items()}


def _told(model: Any, given: Mapping[str, Any]) -> str:
    """What is said to a call of a model with some arguments, those beside them that it needs being a zero."""
    needed = [name for name, each in inspect.signature(model.forward).parameters.items() if each.default is each.empty]
    return said_to(lambda: model(**{**dict.fromkeys(needed, torch.zeros(1, 1)), **given}))


@torch.no_grad()
def with_and_without_a_picture() -> float:
    """Largest difference of HunyuanVideo 1.5's transformer to one process, by turns from a picture and from text."""
    case = Case("hunyuan-video-1.5-i2v")
    plain, pipe = make(case), make(case)
    given: dict[str, Any] = {}
    handle = plain.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    plain(**inputs(case, {}))
    handle.remove()
    nothing = {**given, "image_embeds": torch.zeros_like(given["image_embeds"])}
    parallelize(pipe, tokenring_degree=dist.get_world_size(), host="diffusers")
    return max(
        relative_error(pipe.transformer(**each)[0], plain.transformer(**each)[0])
        for each in (given, nothing, given, nothing)
    )


def other_pipeline(pipe: Any) -> Any:
    """Another pipeline with the same parts."""
    from diffusers import FluxPipeline

    return FluxPipeline(**pipe.components)


@torch.no_grad()
def rounded(family: str, backend: str = "") -> float:
    """Error in bf16, against fp32 in one process, as a multiple of that of one process in bf16.

    Args:
        family: Key of the pipeline.
        backend: What ``set_attention_backend`` is told; nothing by default.
    """
    case, device = Case(family), rank_device()
    exact, single = by_the_first(
        lambda: [
            latents_of(make(case).to(device, each)(**inputs(case, {}))) for each in (torch.float32, torch.bfloat16)
        ]
    )
    pipe = make(case).to(device, torch.bfloat16)
    parallelize(pipe, tokenring_degree=dist.get_world_size(), host="diffusers")
    if backend:
        pipe.transformer.set_attention_backend(backend)
    try:
        found = latents_of(pipe(**inputs(case, {})))
    finally:
        if backend:
            pipe.transformer.set_attention_backend("native")
    return relative_error(found.float(), exact) / relative_error(single.float(), exact)


def all_rounded(families: list[str]) -> dict[str, float]:
    """:func:`rounded` of several pipelines, one after the other."""
    return {family: rounded(family) for family in families}
