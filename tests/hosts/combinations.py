"""Uses of a pipeline that come together, as in people's programs: each of :mod:`tests.hosts.xfuser.uses` is but one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from tests.hosts.xfuser.uses import judge
from tests.hosts.xfuser.uses.afterwards import changing
from tests.hosts.xfuser.uses.arguments import images_name
from tests.hosts.xfuser.uses.harness import Scene, Trial, Use, called, rounding, tensors_of, trial
from tests.hosts.xfuser.uses.judging import OFF, Kind, Outcome, forgiven
from tests.hosts.xfuser.uses.lora import ALL, ATTENTION, TWO, fuse, load, state, then, unload
from tests.hosts.xfuser.uses.schedulers import swap
from tests.hosts.xfuser.uses.transformer import (
    cache,
    casting,
    compiled,
    faster,
    first_block,
    fuse_projections,
    group_offload,
    pyramid,
    taylor,
)
from tests.support.ranks import RankPool

__all__ = ["COMBINATIONS", "outcome_of"]

STOCHASTIC = swap("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True)


def _contrast(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    x = tensors["latents"]
    return {"latents": x.mean() + 1.2 * (x - x.mean())}


def _takes(scene: Scene, *names: str) -> None:
    known = inspect.signature(type(scene.plain()).__call__).parameters
    for name in names:
        if name not in known:
            raise TypeError(f"takes no {name}")


def several_with_callback(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Two of a prompt from generators of their own, latents changed after each step."""
    _takes(scene, "callback_on_step_end")
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    more = {images_name(scene): 2, "generator": generators, "callback_on_step_end": _contrast}
    return called(lambda pipe, scene: more, steps=4)(pipe, scene)


def exchanged_adapters(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Calls of other sizes, an adapter more after the first, the first unloaded, then none."""
    found = {**tensors_of(pipe(**scene.inputs()))}
    pipe.load_lora_weights(state(scene, ATTENTION, 5), adapter_name="late")
    pipe.set_adapters(["late"], [0.6])
    found["another"] = tensors_of(pipe(**_taller(scene)))["latents"]
    pipe.fuse_lora(adapter_names=["late"])
    found["fused"] = tensors_of(pipe(**scene.inputs()))["latents"]
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    found["none"] = tensors_of(pipe(**_taller(scene)))["latents"]
    return found


def _taller(scene: Scene) -> dict[str, Any]:
    return scene.inputs(height=2 * scene.inputs()["height"])


def cached_then_not(make: Any) -> Any:
    """Calls of two sizes with a cache, and one without."""

    def call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        pipe.transformer.enable_cache(make(pipe))
        found = {"cached": tensors_of(pipe(**scene.inputs(steps=6)))["latents"]}
        found["taller"] = tensors_of(pipe(**{**_taller(scene), "num_inference_steps": 6}))["latents"]
        pipe.transformer.disable_cache()
        return {**found, **tensors_of(pipe(**scene.inputs(steps=6)))}

    return call


def cached_with_adapters(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A cache, whose calls have an adapter of other strengths."""
    pipe.transformer.enable_cache(first_block(pipe))
    found: dict[str, Any] = {}
    for scale in (1.0, 0.3):
        pipe.set_adapters("a", scale)
        found[str(scale)] = tensors_of(pipe(**scene.inputs(steps=6)))["latents"]
    return {**found, "latents": found["0.3"]}


def scale_in_callback(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """An adapter that fades from step to step."""
    _takes(scene, "callback_on_step_end")

    def fade(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.set_adapters("a", 1 / (2 + step))
        return {}

    return called(lambda pipe, scene: {"callback_on_step_end": fade}, steps=4)(pipe, scene)


def decoded_by_hand(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Latents of one call are the noise of the next, and noise is drawn without a generator."""
    first = tensors_of(pipe(**scene.inputs()))["latents"]
    return tensors_of(pipe(**{**scene.inputs(), "latents": first, "generator": None}))


def whole_pipeline_offload(pipe: Any, scene: Scene) -> None:
    """Group offloading of all parts by the pipeline's own call."""
    cpu = torch.device("cpu")
    pipe.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def fused_and_not(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Projections fused for a call, and taken apart for the next."""
    pipe.transformer.fuse_qkv_projections()
    first = tensors_of(pipe(**scene.inputs()))["latents"]
    pipe.transformer.unfuse_qkv_projections()
    return {"first": first, **tensors_of(pipe(**scene.inputs()))}


def scaled_by_block(pipe: Any, scene: Scene) -> None:
    """An adapter put into the model itself, with a scale of its own for some layers."""
    names = [name for name, layer in pipe.transformer.named_modules() if hasattr(layer, "lora_A")]
    for name in names[::2]:
        pipe.transformer.get_submodule(name).set_scale("a", 0.4)


def dora(pipe: Any, scene: Scene) -> None:
    """An adapter that learns directions and sizes of weights apart."""
    from peft import LoraConfig

    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], use_dora=True, init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name="dora")
    pipe.transformer.eval()


def from_pipe_with_adapter(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A second pipeline by ``from_pipe``, an adapter loaded through it and taken off through the first."""
    import tokenring_xdit

    other = type(scene.plain()).from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    if not scene.alone:
        tokenring_xdit.parallelize(other, tokenring_degree=dist.get_world_size(), host=scene.host)
    load(ATTENTION)(other, scene)
    found = {"first": tensors_of(pipe(**scene.inputs()))["latents"], **tensors_of(other(**_taller(scene)))}
    pipe.unload_lora_weights()
    return {**found, "none": tensors_of(other(**scene.inputs()))["latents"]}


def scheduler_of_another_call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A stochastic scheduler between two calls, and the first one again."""
    before = pipe.scheduler
    found = {"first": tensors_of(pipe(**scene.inputs()))["latents"]}
    STOCHASTIC(pipe, scene)
    found["noisy"] = tensors_of(pipe(**_taller(scene)))["latents"]
    pipe.scheduler = before
    return {**found, **tensors_of(pipe(**scene.inputs(steps=3)))}


def prompts_and_pictures(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Three of each of two prompts, with a generator for each."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    prompts = ["a red fox in the snow", "a boat"]
    return tensors_of(pipe(**{**scene.inputs(prompts=prompts), images_name(scene): 3, "generator": generators}))


def failing_callback(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A callback that raises on every rank alike, and another call with a cache whose state it left."""
    _takes(scene, "callback_on_step_end")
    pipe.transformer.enable_cache(first_block(pipe))

    def fail(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise KeyError("enough")
        return {}

    try:
        pipe(**scene.inputs(steps=6), callback_on_step_end=fail)
    except KeyError:
        pipe.transformer._reset_stateful_cache()
    return tensors_of(pipe(**scene.inputs(steps=6)))


def control_lora(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """FLUX.1's control pipeline round the same parts: an adapter that widens the first layer, then none."""
    from diffusers import FluxControlPipeline

    import tokenring_xdit

    takes = inspect.signature(FluxControlPipeline.__init__).parameters
    other: Any = FluxControlPipeline(**{name: part for name, part in pipe.components.items() if name in takes})
    other.set_progress_bar_config(disable=True)
    if not scene.alone:
        tokenring_xdit.parallelize(other, tokenring_degree=dist.get_world_size(), host=scene.host)
    first, draw = pipe.transformer.x_embedder, torch.Generator().manual_seed(8)
    weights = {
        **state(scene, ATTENTION),
        "transformer.x_embedder.lora_A.weight": torch.randn(4, 2 * first.in_features, generator=draw) / 8,
        "transformer.x_embedder.lora_B.weight": torch.randn(first.out_features, 4, generator=draw) / 4,
    }
    other.load_lora_weights(weights, adapter_name="control")
    inputs = scene.inputs()
    seen = torch.rand(1, 3, inputs["height"], inputs["width"], generator=draw)
    found = tensors_of(other(**inputs, control_image=seen))
    other.unload_lora_weights(reset_to_overwritten_params=True)
    return {**found, "without": tensors_of(pipe(**scene.inputs()))["latents"]}


def two_controlnets(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Two ControlNets in a list, with a picture and a strength each, of which one ends half way."""
    import tokenring_xdit

    first = pipe.controlnet
    second = copy.deepcopy(first)
    for weight in second.parameters():
        weight.mul_(1.2)
    other: Any = type(scene.plain())(**{**pipe.components, "controlnet": [first, second]})
    other.set_progress_bar_config(disable=True)
    if not scene.alone:
        tokenring_xdit.parallelize(other, tokenring_degree=dist.get_world_size(), host=scene.host)
    inputs = scene.inputs(steps=4)
    seen = {"control_image": [inputs["control_image"], inputs["control_image"].flip(-1)]}
    strengths = {"controlnet_conditioning_scale": [0.7, 0.5], "control_guidance_end": [1.0, 0.5]}
    return tensors_of(other(**{**inputs, **seen, **strengths}))


def disabled(pipe: Any, scene: Scene) -> None:
    """No cache any more."""
    pipe.transformer.disable_cache()


def sea(pipe: Any) -> Any:
    """A cache that looks at the spectrum of the whole video."""
    from diffusers import SeaCacheConfig

    return SeaCacheConfig(threshold=5.0)


def text_keys(pipe: Any) -> Any:
    """A cache of the text's keys."""
    from diffusers import TextKVCacheConfig

    return TextKVCacheConfig()


_SAME: dict[str, Any] = {"changes": False}
_CONTROLNETS = frozenset({"flux-controlnet", "sd3-controlnet"})
COMBINATIONS: dict[str, Use] = {
    "stochastic-several-callback": Use(
        "stochastic scheduler after, two of a prompt, generators in a list, latents changed by a callback",
        after=STOCHASTIC,
        call=several_with_callback,
        steps=4,
    ),
    "lora-fused-qkv-stochastic": Use(
        "two LoRAs before, stochastic scheduler and fused projections after",
        before=TWO,
        after=then(STOCHASTIC, fuse_projections),
    ),
    "fused-qkv-then-lora": Use("projections fused before, LoRA after", before=fuse_projections, after=ALL),
    "fused-and-not": Use("projections fused, then unfused", call=fused_and_not, **_SAME),
    "lora-casting": Use("LoRA before, weights in bf16 after", before=ALL, after=casting),
    "casting-lora": Use("weights in bf16 before, LoRA after", before=casting, after=ALL),
    "lora-offload": Use("LoRA before, group offloading after", before=ALL, after=group_offload("block_level")),
    "offload-lora": Use("group offloading after, then a LoRA", after=then(group_offload("leaf_level"), ALL)),
    "offload-casting": Use(
        "weights in bf16, then group offloading, after", after=then(casting, group_offload("block_level"))
    ),
    "offload-before-lora": Use(
        "group offloading before, LoRA and fused projections after",
        before=group_offload("block_level"),
        after=then(ALL, fuse_projections),
    ),
    "offload-cache-before": Use(
        "group offloading and FasterCache before, two sizes",
        before=then(group_offload("leaf_level"), cache(faster)),
        call=changing,
        **_SAME,
    ),
    "cache-disabled-before": Use("FasterCache before, disabled again", before=then(cache(faster), disabled), **_SAME),
    "offload-pipeline": Use("enable_group_offload of the pipeline", after=whole_pipeline_offload, **_SAME),
    "offload-changing": Use(
        "group offloading, other sizes, texts and batches", after=group_offload("leaf_level"), call=changing, **_SAME
    ),
    "adapters-exchanged": Use(
        "LoRA added, fused, unloaded between calls of two sizes", before=ALL, call=exchanged_adapters
    ),
    "adapters-exchanged-after": Use("the same, with the first loaded after", after=ALL, call=exchanged_adapters),
    "lora-fades": Use("LoRA that a callback weakens", after=ALL, call=scale_in_callback, steps=4),
    "lora-blocks": Use("LoRA with scales of single layers", after=then(ALL, scaled_by_block)),
    "lora-dora": Use("DoRA by add_adapter", after=dora),
    "lora-another": Use(
        "LoRA loaded, fused and unloaded, then another", after=then(ALL, fuse, unload, load(ATTENTION, 2, "b"))
    ),
    "cache-sizes": Use("first-block cache, two sizes, then none", call=cached_then_not(first_block), steps=6, **_SAME),
    "pyramid-sizes": Use("pyramid broadcast, two sizes, then none", call=cached_then_not(pyramid), steps=6, **_SAME),
    "taylor-sizes": Use("TaylorSeer, two sizes, then none", call=cached_then_not(taylor), steps=6, **_SAME),
    "cache-lora": Use("first-block cache, LoRA of two strengths", after=ALL, call=cached_with_adapters, steps=6),
    "cache-casting": Use(
        "first-block cache and weights in bf16", after=then(casting, cache(first_block)), call=called(steps=6), steps=6
    ),
    "cache-offload": Use(
        "first-block cache and group offloading",
        after=then(group_offload("leaf_level"), cache(first_block)),
        call=called(steps=6),
        steps=6,
    ),
    "cache-sea": Use("SeaCache", after=cache(sea), call=called(steps=6), steps=6),
    "cache-text-keys": Use(
        "a cache of the text's keys", after=cache(text_keys), call=called(steps=6), steps=6, **_SAME
    ),
    "cache-failed": Use("a callback that raises, then a call, with a cache", call=failing_callback, steps=6),
    "compiled-lora": Use(
        "compiled after a LoRA", after=then(ALL, compiled), counted=False, families=frozenset({"flux"})
    ),
    "latents-again": Use("latents of one call as the noise of the next, no generator", call=decoded_by_hand),
    "from-pipe-lora": Use("from_pipe, parallelised, LoRA through it", call=from_pipe_with_adapter),
    "control-lora": Use(
        "a control LoRA in FluxControlPipeline round the same parts", call=control_lora, families=frozenset({"flux"})
    ),
    "two-controlnets": Use(
        "two ControlNets, one of which ends half way", call=two_controlnets, steps=4, families=_CONTROLNETS
    ),
    "scheduler-back": Use("a stochastic scheduler between calls", call=scheduler_of_another_call),
    "prompts-pictures": Use("three of each of two prompts, six generators", call=prompts_and_pictures),
}
"""Combinations by key."""


def tried(key: str, family: str, host: str) -> Trial:
    """What comes of a combination on this rank."""
    return trial(COMBINATIONS[key], family, host)


def rounded(key: str, family: str, host: str) -> float:
    """What another kernel changes in one process."""
    return rounding(COMBINATIONS[key], family, host)


def outcome_of(ranks: RankPool, key: str, family: str, host: str, count: int) -> Outcome:
    """How a combination goes on several ranks.

    Args:
        ranks: The ranks.
        key: The combination.
        family: Key of the pipeline.
        host: Which host spreads it.
        count: How many ranks.
    """
    outcome = judge(COMBINATIONS[key], ranks.run(count, tried, key, family, host, timeout=240))
    if outcome.kind is Kind.WRONG and outcome.text.startswith(OFF):
        (single,) = ranks.run(1, rounded, key, family, host, timeout=240)
        outcome = forgiven(outcome, single)
    return outcome
