"""Adapters (LoRA) before and after ``parallelize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.hosts.xfuser.uses.harness import Expected, Scene, Use, called, tensors_of

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "attention.to_q", "attention.to_k", "attention.to_v")
EVERYTHING = ("",)


def state(scene: Scene, endings: tuple[str, ...], seed: int = 0, part: str = "transformer") -> dict[str, Tensor]:
    """A random adapter for linear layers whose names end so."""
    draw, found = torch.Generator().manual_seed(seed), {}
    for name, layer in getattr(scene.plain(), part).named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(endings):
            out, into = layer.weight.shape
            found[f"transformer.{name}.lora_A.weight"] = torch.randn(4, into, generator=draw) / into**0.5
            found[f"transformer.{name}.lora_B.weight"] = 0.3 * torch.randn(out, 4, generator=draw)
    return found


def load(endings: tuple[str, ...], seed: int = 0, name: str = "a", **options: Any) -> Any:
    """Load an adapter, into both transformers where there are two."""

    def change(pipe: Any, scene: Scene) -> None:
        pipe.load_lora_weights(state(scene, endings, seed), adapter_name=name, **options)
        if getattr(pipe, "transformer_2", None) is not None:
            second = state(scene, endings, seed, "transformer_2")
            pipe.load_lora_weights(second, adapter_name=name, load_into_transformer_2=True, **options)

    return change


def then(*changes: Any) -> Any:
    """Several changes one after another."""

    def change(pipe: Any, scene: Scene) -> None:
        for each in changes:
            each(pipe, scene)

    return change


def fuse(pipe: Any, scene: Scene) -> None:
    """Add what was loaded to the weights."""
    pipe.fuse_lora()


def unload(pipe: Any, scene: Scene) -> None:
    """Take adapters away."""
    pipe.unload_lora_weights()


def weigh(pipe: Any, scene: Scene) -> None:
    """Use two adapters at once."""
    pipe.set_adapters(["a", "b"], [0.7, -0.4])


TWO = then(load(ATTENTION), load(EVERYTHING, 1, "b"), weigh)


def scaled(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Half of the adapter, for one call."""
    for name in ("joint_attention_kwargs", "attention_kwargs", "cross_attention_kwargs"):
        if name in type(pipe).__call__.__annotations__ or name in _parameters(scene):
            return {name: {"scale": 0.5}}
    raise TypeError("takes no scale")


def _parameters(scene: Scene) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(type(scene.plain()).__call__).parameters


def switched(*steps: str) -> Any:
    """A call, then methods of the pipeline with a call after each."""

    def call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        found = {**tensors_of(pipe(**scene.inputs()))}
        for step in steps:
            getattr(pipe, step)()
            found[step] = tensors_of(pipe(**scene.inputs()))["latents"]
        return found

    return call


def deleted(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Two adapters, of which one is removed after a call."""
    found = {**tensors_of(pipe(**scene.inputs()))}
    pipe.delete_adapters("b")
    found["one"] = tensors_of(pipe(**scene.inputs()))["latents"]
    pipe.set_adapters("a", 0.5)
    found["half of it"] = tensors_of(pipe(**scene.inputs()))["latents"]
    return found


def exchanged(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Another adapter into the place of the first, between two calls."""
    found = {**tensors_of(pipe(**scene.inputs()))}
    pipe.load_lora_weights(state(scene, ATTENTION, 1), adapter_name="a", hotswap=True)
    found["exchanged"] = tensors_of(pipe(**scene.inputs()))["latents"]
    return found


def listed(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """What the pipeline says of its adapters."""
    return {"active": pipe.get_active_adapters(), "all": {k: sorted(v) for k, v in pipe.get_list_adapters().items()}}


def of_peft(pipe: Any, scene: Scene) -> None:
    """An adapter of the peft library, put into the model without diffusers."""
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
        inject_adapter_in_model(config, pipe.transformer)
    pipe.transformer.eval()


def as_peft_model(pipe: Any, scene: Scene) -> None:
    """The peft library's model around the transformer."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipe.transformer = get_peft_model(pipe.transformer, config).eval()


def of_each_rank(pipe: Any, scene: Scene) -> None:
    """Another adapter on each rank."""
    load(ATTENTION, scene.rank)(pipe, scene)


def of_first_rank(pipe: Any, scene: Scene) -> None:
    """An adapter on the first rank alone."""
    if scene.rank == 0:
        load(ATTENTION)(pipe, scene)


SOME, ALL = load(ATTENTION), load(EVERYTHING)
USES = {
    "lora-attention-after": Use("LoRA of attention, loaded after", after=SOME),
    "lora-attention-before": Use("LoRA of attention, loaded before", before=SOME),
    "lora-all-after": Use("LoRA of all linear layers, loaded after", after=ALL),
    "lora-all-before": Use("LoRA of all linear layers, loaded before", before=ALL),
    "lora-fused-before": Use("LoRA fused before", before=then(ALL, fuse)),
    "lora-fused-unloaded-before": Use(
        "LoRA fused and unloaded before", before=then(ALL, fuse, unload), expected=Expected.RIGHT
    ),
    "lora-fused-after": Use("LoRA fused after", after=then(ALL, fuse)),
    "lora-fused-across": Use("LoRA loaded before, fused after", before=ALL, after=fuse),
    "lora-fused-unfused-after": Use(
        "LoRA fused, then unfused", after=ALL, call=switched("fuse_lora", "unfuse_lora"), changes=True
    ),
    "lora-two-after": Use("Two LoRAs with weights, after", after=TWO),
    "lora-two-before": Use("Two LoRAs with weights, before", before=TWO),
    "lora-weights-across": Use("Two LoRAs loaded before, weighed after", before=TWO, after=weigh),
    "lora-deleted": Use("Two LoRAs, one deleted after a call", after=TWO, call=deleted),
    "lora-scale-attention": Use("LoRA of attention, scale in the call", after=SOME, call=called(scaled)),
    "lora-scale-all": Use("LoRA of all linear layers, scale in the call", after=ALL, call=called(scaled)),
    "lora-scale-before": Use("LoRA loaded before, scale in the call", before=ALL, call=called(scaled)),
    "lora-unloaded-after": Use("LoRA unloaded after a call", after=ALL, call=switched("unload_lora_weights")),
    "lora-before-unloaded-after": Use(
        "LoRA loaded before, unloaded after a call", before=ALL, call=switched("unload_lora_weights")
    ),
    "lora-switched": Use("LoRA off and on", after=ALL, call=switched("disable_lora", "enable_lora")),
    "lora-exchanged": Use("LoRA exchanged in place (hotswap)", after=SOME, call=exchanged),
    "lora-listed": Use("LoRA, what the pipeline says of it", after=TWO, call=listed),
    "lora-peft-after": Use("Adapter of peft put in after", after=of_peft),
    "lora-peft-before": Use("Adapter of peft put in before", before=of_peft),
    "lora-peft-model-after": Use("Model of peft after", after=as_peft_model),
    "lora-peft-model-before": Use("Model of peft before", before=as_peft_model),
    "lora-each-rank-after": Use("LoRA of each rank's own, after", after=of_each_rank, expected=Expected.REFUSED),
    "lora-each-rank-before": Use("LoRA of each rank's own, before", before=of_each_rank, expected=Expected.REFUSED),
    "lora-first-rank": Use("LoRA on the first rank alone", after=of_first_rank, expected=Expected.REFUSED),
}
