"""What is done to the transformer before and after ``parallelize``: processors, hooks, caches, precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.hosts.xfuser.uses.harness import Change, Expected, Scene, Use, called, tensors_of

STEPS = 6


def default_processors(pipe: Any, scene: Scene) -> None:
    """Diffusers' own processors, made anew."""
    pipe.transformer.set_attn_processor({n: type(p)() for n, p in scene.plain().transformer.attn_processors.items()})


def _weaker(kind: type) -> Any:
    """A processor of a subclass, which gives nine tenths of what attention gives."""

    class Weaker(kind):  # type: ignore[valid-type, misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return _scaled(super().__call__(*args, **kwargs), 0.9)

    return Weaker()


def weaker_processors(pipe: Any, scene: Scene) -> None:
    """Subclasses of diffusers' own in all layers."""
    processors = scene.plain().transformer.attn_processors
    pipe.transformer.set_attn_processor({name: _weaker(type(each)) for name, each in processors.items()})


def one_processor(pipe: Any, scene: Scene) -> None:
    """A subclass in the first layer alone, set on the layer."""
    name, processor = next(iter(scene.plain().transformer.attn_processors.items()))
    pipe.transformer.get_submodule(name.removesuffix(".processor")).set_processor(_weaker(type(processor)))


def fuse_projections(pipe: Any, scene: Scene) -> None:
    """One matrix for queries, keys and values."""
    pipe.transformer.fuse_qkv_projections()


def backend(name: str) -> Change:
    """A kernel of diffusers' attention dispatcher."""

    def change(pipe: Any, scene: Scene) -> None:
        pipe.transformer.set_attention_backend(name)

    return change


def _scaled(output: Any, factor: float) -> Any:
    if isinstance(output, Tensor):
        return factor * output if output.is_floating_point() else output
    if isinstance(output, (tuple, list)):
        return type(output)(_scaled(part, factor) for part in output)
    return output


def hook_on_output(pipe: Any, scene: Scene) -> None:
    """A hook that scales what the transformer gives."""
    pipe.transformer.register_forward_hook(lambda module, arguments, output: _scaled(output, 0.9))


def hook_on_input(pipe: Any, scene: Scene) -> None:
    """A hook that scales the latents that the transformer takes."""

    def scale(module: Any, args: Any, kwargs: Any) -> Any:
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": _scaled(kwargs["hidden_states"], 0.9)}
        return (_scaled(args[0], 0.9), *args[1:]), kwargs

    pipe.transformer.register_forward_pre_hook(scale, with_kwargs=True)


def hook_about_the_mean(pipe: Any, scene: Scene) -> None:
    """A hook that looks at all of what the transformer gives."""

    def centre(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.mean() + 1.2 * (x - x.mean())
        return type(x)(map(centre, x)) if isinstance(x, (list, tuple)) else x

    pipe.transformer.register_forward_hook(lambda module, arguments, output: centre(output))


def _first_block(model: nn.Module) -> nn.Module:
    lists = [module for module in model.children() if isinstance(module, nn.ModuleList) and len(module)]
    return max(lists, key=len)[0]


def hook_on_block(pipe: Any, scene: Scene) -> None:
    """A hook on a layer that acts token by token."""
    _first_block(pipe.transformer).register_forward_hook(lambda module, arguments, output: _scaled(output, 0.9))


def hook_on_block_mean(pipe: Any, scene: Scene) -> None:
    """A hook on a layer that takes the mean over tokens."""

    def centre(x: Any) -> Any:
        if isinstance(x, Tensor) and x.ndim == 3:
            return x - 0.5 * x.mean(1, keepdim=True)
        return type(x)(map(centre, x)) if isinstance(x, (list, tuple)) else x

    _first_block(pipe.transformer).register_forward_hook(lambda module, arguments, output: centre(output))


def own_forward(pipe: Any, scene: Scene) -> None:
    """A function of the user's in the place of the transformer's forward, around it."""
    original = pipe.transformer.forward
    pipe.transformer.forward = lambda *args, **kwargs: _scaled(original(*args, **kwargs), 0.9)


def hook_of_diffusers(pipe: Any, scene: Scene) -> None:
    """A hook of diffusers' registry."""
    from diffusers.hooks import HookRegistry, ModelHook

    class Scale(ModelHook):
        def post_forward(self, module: Any, output: Any) -> Any:
            return _scaled(output, 0.9)

    HookRegistry.check_if_exists_or_initialize(pipe.transformer).register_hook(Scale(), "scale")


def skip_layer(pipe: Any, scene: Scene) -> None:
    """Diffusers' hook that leaves a layer out."""
    from diffusers.hooks import LayerSkipConfig, apply_layer_skip

    apply_layer_skip(pipe.transformer, LayerSkipConfig(indices=[1], fqn="auto"))


def cache(make: Callable[[Any], Any]) -> Change:
    """One of diffusers' caches; the callback that tells the time looks at the pipeline."""

    def change(pipe: Any, scene: Scene) -> None:
        pipe.transformer.enable_cache(make(pipe))

    return change


def pyramid(pipe: Any) -> Any:
    """Attention of the step before, in the middle of the time."""
    from diffusers import PyramidAttentionBroadcastConfig

    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(10, 990),
        cross_attention_block_skip_range=3,
        cross_attention_timestep_skip_range=(10, 990),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def faster(pipe: Any) -> Any:
    """FasterCache, of attention and of the pass without a prompt."""
    from diffusers import FasterCacheConfig

    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 990),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 990),
        attention_weight_callback=lambda module: 0.5,
        tensor_format="BFCHW" if "CogVideoX" in type(pipe).__name__ else "BCFHW",
        is_guidance_distilled="Flux" in type(pipe).__name__ or "Hunyuan" in type(pipe).__name__,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor(pipe: Any) -> Any:
    """Features of a layer as a Taylor series."""
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, taylor_factors_dtype=torch.float32)


def mag(pipe: Any) -> Any:
    """MagCache, with ratios that say that steps may be left out."""
    from diffusers import MagCacheConfig

    return MagCacheConfig(
        threshold=0.5, retention_ratio=0.1, num_inference_steps=STEPS, mag_ratios=torch.linspace(1, 0.9, STEPS)
    )


def thresholds(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """First-block cache with thresholds about the distances of steps, so that some are left out at each."""
    from diffusers import FirstBlockCacheConfig

    found: dict[str, Any] = {}
    for threshold in (0.1, 0.2, 0.4, 0.8, 1.2, 1.6):
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        found[str(threshold)] = tensors_of(pipe(**scene.inputs(steps=STEPS)))["latents"]
        pipe.transformer.disable_cache()
    return {**found, "latents": found["1.6"]}


def first_block(pipe: Any) -> Any:
    """First-block cache, with a threshold at which blocks of small models are left out."""
    from diffusers import FirstBlockCacheConfig

    return FirstBlockCacheConfig(threshold=1.6)


def casting(pipe: Any, scene: Scene) -> None:
    """Weights in bf16, computed with in fp32."""
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def group_offload(kind: str) -> Change:
    """Groups of weights moved in and out by diffusers."""

    def change(pipe: Any, scene: Scene) -> None:
        cpu = torch.device("cpu")
        options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        pipe.transformer.enable_group_offload(cpu, cpu, offload_type=kind, **options)

    return change


def checkpointing(pipe: Any, scene: Scene) -> None:
    """Activations made anew in training; nothing at inference."""
    pipe.transformer.enable_gradient_checkpointing()


def chunking(pipe: Any, scene: Scene) -> None:
    """Feed-forward in chunks of tokens."""
    pipe.transformer.enable_forward_chunking(chunk_size=2, dim=1)


class Rounded(nn.Linear):
    """A linear layer whose weights are eight-bit integers with a scale, made into floats when it runs."""

    @classmethod
    def of(cls, layer: nn.Linear) -> Rounded:
        """The layer with its weights rounded."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None)
        scale = layer.weight.abs().max() / 127
        made.weight = nn.Parameter((layer.weight / scale).round().to(torch.int8), requires_grad=False)
        made.register_buffer("scale", scale)
        made.bias = layer.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        """The product with the scaled weights."""
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantised(pipe: Any, scene: Scene) -> None:
    """Linear layers of the blocks in eight bits."""
    _exchange(pipe.transformer, Rounded.of)


class Doubled(nn.Module):
    """A module of the user's around a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Slightly more than the layer gives."""
        return 1.1 * self.layer(x)


def wrapped_layers(pipe: Any, scene: Scene) -> None:
    """A module of the user's around the linear layers."""
    _exchange(pipe.transformer, Doubled)


def _exchange(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    block = _first_block(model)
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not isinstance(parent, Doubled):
                setattr(parent, name, make(child))


def other_weights(pipe: Any, scene: Scene) -> None:
    """Weights changed in place."""
    for parameter in pipe.transformer.parameters():
        parameter.mul_(1.05)


def loaded_weights(pipe: Any, scene: Scene) -> None:
    """Weights of another model of the same form, loaded by name."""
    other = scene.plain().transformer
    pipe.transformer.load_state_dict({name: 1.05 * value for name, value in other.state_dict().items()})


def weights_of_each_rank(pipe: Any, scene: Scene) -> None:
    """Weights that differ between the ranks."""
    for parameter in pipe.transformer.parameters():
        parameter.mul_(1 + 0.1 * scene.rank)


def parametrised(pipe: Any, scene: Scene) -> None:
    """A parametrisation of torch's on a linear layer."""
    from torch.nn.utils import parametrize

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x

    layer = next(m for m in _first_block(pipe.transformer).modules() if type(m) is nn.Linear)
    parametrize.register_parametrization(layer, "weight", Half())


def compiled(pipe: Any, scene: Scene) -> None:
    """The transformer compiled in place."""
    pipe.transformer.compile(backend="aot_eager")


def compiled_around(pipe: Any, scene: Scene) -> None:
    """The compiled transformer in the place of the transformer."""
    pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")


def compiled_blocks(pipe: Any, scene: Scene) -> None:
    """Layers compiled one by one."""
    pipe.transformer.compile_repeated_blocks(backend="aot_eager")


def train_mode(pipe: Any, scene: Scene) -> None:
    """The transformer in training mode, which the small models' layers do not heed."""
    pipe.transformer.train()


def skipped_layers(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """SD3's guidance by a pass with a layer left out."""
    return {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}


_LONGER = {"call": called(steps=STEPS), "steps": STEPS}
_PAIRS: dict[str, tuple[str, Change, dict[str, Any]]] = {
    "processors": ("diffusers' attention processors set anew", default_processors, {"changes": False}),
    "processors-own": ("attention processors of a subclass", weaker_processors, {}),
    "processor-one": ("one layer's attention processor", one_processor, {}),
    "fused-projections": ("fuse_qkv_projections", fuse_projections, {"changes": False}),
    "backend-native": ('set_attention_backend("native")', backend("native"), {"changes": False}),
    "backend-math": ('set_attention_backend("_native_math")', backend("_native_math"), {"changes": False}),
    "hook-output": ("forward hook that scales the output", hook_on_output, {}),
    "hook-mean": ("forward hook that looks at the whole output", hook_about_the_mean, {}),
    "hook-input": ("forward pre-hook that scales the input", hook_on_input, {}),
    "hook-block": ("forward hook on a block", hook_on_block, {}),
    "hook-block-mean": ("forward hook on a block, mean over tokens", hook_on_block_mean, {}),
    "hook-diffusers": ("hook of diffusers' registry", hook_of_diffusers, {}),
    "forward": ("transformer.forward replaced", own_forward, {}),
    "layer-skip": ("apply_layer_skip", skip_layer, {}),
    "cache-pyramid": ("pyramid attention broadcast", cache(pyramid), _LONGER),
    "cache-faster": ("FasterCache", cache(faster), _LONGER),
    "cache-taylor": ("TaylorSeer cache", cache(taylor), _LONGER),
    "cache-mag": ("MagCache", cache(mag), _LONGER),
    "cache-first-block": ("first-block cache", cache(first_block), _LONGER),
    "casting": ("enable_layerwise_casting, bf16 to fp32", casting, {}),
    "group-leaf": ("group offloading by layer", group_offload("leaf_level"), {"changes": False}),
    "group-block": ("group offloading by block", group_offload("block_level"), {"changes": False}),
    "checkpointing": ("gradient checkpointing", checkpointing, {"changes": False}),
    "chunking": ("feed-forward in chunks", chunking, {"changes": False}),
    "quantised": ("linear layers of eight bits", quantised, {}),
    "wrapped-layers": ("a user's modules around linear layers", wrapped_layers, {}),
    "weights": ("weights changed in place", other_weights, {}),
    "weights-loaded": ("load_state_dict on the transformer", loaded_weights, {}),
    "parametrised": ("a parametrisation of torch's", parametrised, {}),
    "train": ("transformer in training mode", train_mode, {"changes": False}),
}
USES: dict[str, Use] = {}
for key, (title, change, options) in _PAIRS.items():
    USES[f"{key}-before"] = Use(f"{title}, before", before=change, **options)
    USES[f"{key}-after"] = Use(f"{title}, after", after=change, **options)
USES |= {
    "cache-thresholds": Use("first-block cache with six thresholds, after", call=thresholds, steps=STEPS),
    "weights-each-rank-before": Use(
        "weights of each rank's own, before", before=weights_of_each_rank, expected=Expected.REFUSED, changes=False
    ),
    "weights-each-rank-after": Use(
        "weights of each rank's own, after", after=weights_of_each_rank, expected=Expected.REFUSED, changes=False
    ),
    "skipped-layers": Use("skip_guidance_layers", call=called(skipped_layers, steps=4), steps=4),
}
_COMPILED = frozenset({"flux", "sd3", "wan-t2v"})
for key, title, change in (
    ("compiled", "transformer.compile()", compiled),
    ("compiled-around", "torch.compile(transformer)", compiled_around),
    ("compiled-blocks", "compile_repeated_blocks()", compiled_blocks),
):
    USES[f"{key}-after"] = Use(f"{title}, after", after=change, changes=False, counted=False, families=_COMPILED)
    USES[f"{key}-before"] = Use(f"{title}, before", before=change, changes=False, counted=False, families=_COMPILED)
