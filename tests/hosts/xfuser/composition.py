"""On the worker ranks: what xfuser does beside attention (step caches, parallel VAE), and ``parallelize``."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.hosts.xfuser.generation import Case, engine, forget_xfuser, latents_of, with_wrapped_transformer
from tests.support.families import FAMILIES, Entry
from tests.support.ranks import by_the_first, rank_device
from tests.support.reference import relative_error


@dataclass(frozen=True)
class StepCache:
    """One of xfuser's caches that leave transformer blocks out in steps that differ little from those before.

    Attributes:
        method: ``teacache`` or ``fbcache``, as for ``--cache_method``.
        threshold: Distance of two steps below which blocks are left out.
    """

    method: str
    threshold: float


@dataclass(frozen=True)
class CachedRun:
    """One generation on one rank.

    Attributes:
        latents: The result; ``None`` on ranks that xfuser gives none.
        executed: Transformer blocks that ran in each step.
        distances: What the cache found between one step and another, in the order it asked; it asks from the
            second step on.
    """

    latents: Tensor | None
    executed: list[int]
    distances: list[float]


@torch.no_grad()
def cached_run(case: Case, cache: StepCache | None) -> CachedRun:
    """Generate latents with a step cache, or with none."""
    family = FAMILIES[case.family]
    inputs = family.inputs(**case.inputs)
    steps = inputs["num_inference_steps"]
    with engine(case) as config:
        if family.entry is Entry.PIPELINE:
            pipe = family.make(**case.make).to(case.dtype)
            executed = _count_blocks(pipe.transformer)
            options = cache and {"cache_method": cache.method, "num_steps": steps, "rel_l1_thresh": cache.threshold}
            pipe = family.wrapper_class()(pipe, config, cache_args=options)
        else:
            pipe = with_wrapped_transformer(family, config, case, inputs)
            executed = _count_blocks(pipe.transformer)
            if cache is not None:
                _apply_as_runner_does(pipe, cache, steps)
        distances = [] if cache is None else _record_distances(pipe.transformer)
        output = pipe(**inputs)
    return CachedRun(None if output is None else output.images, executed, distances)


def _apply_as_runner_does(pipe: Any, cache: StepCache, steps: int) -> None:
    """What ``xFuserModel._apply_step_cache`` calls for ``--cache_method`` and ``--cache_config``."""
    from xfuser.model_executor.cache import apply_cache

    config = json.dumps({"residual_diff_threshold": cache.threshold})
    apply_cache(cache.method, num_steps=steps, pipe=pipe, cache_config=config)


def _count_blocks(transformer: Any) -> list[int]:
    """A list that gets a number for each call of a Flux transformer: its blocks that ran."""
    executed: list[int] = []

    def begin(module: Any, arguments: Any) -> None:
        executed.append(0)

    def count(module: Any, arguments: Any) -> None:
        executed[-1] += 1

    transformer.x_embedder.register_forward_pre_hook(begin)
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        block.register_forward_pre_hook(count)
    return executed


def _record_distances(transformer: Any) -> list[float]:
    """A list that gets what the cache of a transformer finds between steps."""
    (blocks,) = transformer.transformer_blocks  # the cache stands in for all of them
    distances: list[float] = []
    original = blocks.l1_distance

    def l1_distance(before: Tensor, now: Tensor) -> Tensor:
        distance: Tensor = original(before, now)
        distances.append(distance.item())
        return distance

    blocks.l1_distance = l1_distance
    return distances


@dataclass(frozen=True)
class Picture:
    """Pixels that a sharded VAE decoded, on one rank.

    Attributes:
        error: Difference to the unmodified diffusers pipeline in one process, relative to the largest pixel;
            ``None`` on ranks that xfuser gives no picture.
        vae_error: The same of what ``vae.decode`` returned to what the whole VAE makes of the same latents.
        adapters: Classes of the VAE's encoder and decoder.
        decoded: Rows and columns of latents in each pass through the decoder on this rank.
        contrast: Standard deviation of the pixels in one process, which go from zero to one.
    """

    error: float | None
    vae_error: float
    adapters: tuple[str, str]
    decoded: list[tuple[int, int]]
    contrast: float


@torch.no_grad()
def decoded_in_parallel(case: Case, tiling: bool = False) -> Picture:
    """Generate pixels with a VAE that the ranks share.

    Args:
        case: The generation.
        tiling: Let the `xdit` runner's VAE manager give whole tiles to ranks, instead of rows.

    Returns:
        How the picture came out.
    """
    family = FAMILIES[case.family]
    reference = family.make(**case.make)
    if tiling:
        reference.vae.enable_tiling()
    expected = by_the_first(lambda: _pixels(reference(**_pixel_inputs(case))))
    assert expected is not None
    with engine(case) as config:
        if family.entry is Entry.PIPELINE:
            _ask_for_parallel_vae(config)
            pipe = family.wrapper_class()(family.make(**case.make), config)
        else:
            pipe = with_wrapped_transformer(family, config, case, _pixel_inputs(case))
            _share_vae_as_runner_does(case.family, pipe.vae, tiling)
        decoded = _record_decoder(pipe.vae)
        calls = _record_decode_calls(pipe.vae)
        actual = _pixels(pipe(**_pixel_inputs(case)))
        adapters = type(pipe.vae.encoder).__name__, type(pipe.vae.decoder).__name__
    ((latents, sharded),) = calls
    return Picture(
        error=None if actual is None else relative_error(actual, expected),
        vae_error=relative_error(sharded, reference.vae.decode(latents, return_dict=False)[0]),
        adapters=adapters,
        decoded=decoded,
        contrast=expected.std().item(),
    )


def _ask_for_parallel_vae(config: Any) -> None:
    """What ``--use_parallel_vae`` sets in a configuration."""
    config.runtime_config.use_parallel_vae = True
    config.parallel_config.vae_config.use_parallel_vae = True
    config.parallel_config.use_parallel_vae = True


_RUNNERS = {
    "flux-runner": "flux:xFuserFluxModel",
    "flux2": "flux:xFuserFlux2Model",
    "qwen-image": "qwen:xFuserQwenImageModel",
    "wan-i2v": "wan:xFuserWan21I2VModel",
    "z-image": "z_image:xFuserZImageModel",
}
"""Models of the `xdit` runner, which say what of their VAE can be shared."""


def _share_vae_as_runner_does(family: str, vae: Any, tiling: bool) -> None:
    """What ``xFuserModel.initialize`` does to a VAE for ``--use_parallel_vae`` and ``--enable_tiling``."""
    from xfuser import xFuserArgs
    from xfuser.core.distributed import parallel_state
    from xfuser.model_executor.models.runner_models.vae_manager import VAEManager

    # The groups were made without it, as `initialize_model_parallel` makes it: of all ranks but data parallel ones.
    parallel_state._VAE = parallel_state.init_model_parallel_group(
        group_ranks=[list(range(dist.get_world_size()))],
        local_rank=dist.get_rank(),
        backend="gloo",
        parallel_mode="vae",
    )
    module, name = _RUNNERS[family].split(":")
    model = getattr(importlib.import_module(f"xfuser.model_executor.models.runner_models.{module}"), name)
    args = xFuserArgs(model="small", use_parallel_vae=True, enable_tiling=tiling)
    manager = VAEManager(args, model.capabilities, model.settings)
    manager.setup_parallel_vae([vae])
    manager.enable_options([vae])


def _record_decoder(vae: Any) -> list[tuple[int, int]]:
    """A list that gets the size of what each pass through a decoder works on."""
    # An adapter is given whole latents and cuts them in front of the up blocks.
    decoder = getattr(vae.decoder, "decoder", None)
    module = vae.decoder if decoder is None else decoder.up_blocks[0]
    sizes: list[tuple[int, int]] = []

    def record(module: Any, arguments: tuple[Tensor, ...]) -> None:
        rows, columns = arguments[0].shape[-2:]
        sizes.append((rows, columns))

    module.register_forward_pre_hook(record)
    return sizes


def _record_decode_calls(vae: Any) -> list[tuple[Tensor, Tensor]]:
    """A list that gets the latents and the result of each call of ``vae.decode``."""
    calls: list[tuple[Tensor, Tensor]] = []
    original = vae.decode

    def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(latents, *args, **kwargs)
        calls.append((latents.clone(), result[0].clone()))
        return result

    vae.decode = decode
    return calls


def _pixel_inputs(case: Case) -> dict[str, Any]:
    """Arguments of a call that returns pixels."""
    return {**FAMILIES[case.family].inputs(**case.inputs), "output_type": "pt"}


def _pixels(output: Any) -> Tensor | None:
    """The picture or video in a pipeline's output; ``None`` on ranks that xfuser gives none."""
    if output is None:
        return None
    pixels: Tensor | None = output.images if hasattr(output, "images") else output.frames
    return pixels


@dataclass(frozen=True)
class Together:
    """How ``parallelize`` went on one rank.

    Attributes:
        error: Difference of two calls, with arguments in two forms, to one process; ``None`` without a result.
        unseeded: A result whose noise nobody chose.
        refusal: What a call says whose prompt is another on each rank.
        again: What making the pipeline parallel a second time says.
    """

    error: float | None
    unseeded: Tensor | None
    refusal: str
    again: str


@torch.no_grad()
def together(family: str, output: str, degrees: dict[str, int]) -> Together:
    """Call a pipeline as always, after :func:`tokenring_xdit.parallelize`."""
    import tokenring_xdit
    from tokenring_xdit.errors import AgreementError, ConfigurationError

    kind = FAMILIES[family]
    expected = by_the_first(lambda: latents_of(kind.make()(**kind.inputs())))
    pipe = kind.make()
    try:
        same = tokenring_xdit.parallelize(pipe, host="xfuser", output=tokenring_xdit.Output[output], **degrees)
        assert same is pipe
        try:
            tokenring_xdit.parallelize(pipe, host="xfuser", **degrees)
            again = ""
        except ConfigurationError as error:
            again = str(error)
        results = [latents_of(pipe(**kind.inputs())) for _ in range(2)]
        unseeded = latents_of(pipe(**{**kind.inputs(), "generator": None}))
        try:
            pipe(**{**kind.inputs(), "prompt": f"prompt {dist.get_rank()}"})
            refusal = ""
        except AgreementError as error:
            refusal = str(error)
    finally:
        forget_xfuser()
    errors = [relative_error(result, expected) for result in results if result is not None]
    return Together(max(errors) if errors else None, unseeded, refusal, again)


def refusals_of_parallelize() -> dict[str, str]:
    """What ``parallelize`` says to degrees that do not fit, and to a pipeline that was not compared."""
    import tokenring_xdit
    from tokenring_xdit.errors import TokenRingError

    class SanaPipeline:
        __module__ = "diffusers"

    said = {}
    for name, (pipe, degree) in {"degrees": (FAMILIES["flux"].make(), 3), "pipeline": (SanaPipeline(), 2)}.items():
        try:
            tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=degree)
        except TokenRingError as error:
            said[name] = str(error)
    return said


def offloaded(family: str, host: str) -> dict[str, float]:
    """Relative errors with weights that accelerate moves in and out, by diffusers' methods on a GPU.

    They ask for one; without, accelerate's own calls that they make, with the CPU as the device that computes.
    """
    import tokenring_xdit

    kind, device = FAMILIES[family], rank_device()
    expected = by_the_first(lambda: latents_of(kind.make().to(device)(**kind.inputs())))
    errors = {}
    for name in ("model", "sequential"):
        for before in (False, True):
            pipe = kind.make()
            try:
                if before:
                    _offload(pipe, name, device)
                tokenring_xdit.parallelize(pipe, host=host, tokenring_degree=2)
                if not before:
                    _offload(pipe, name, device)
                weights = next(pipe.transformer.parameters())
                assert weights.device.type == ("meta" if name == "sequential" else "cpu")
                errors[f"{name} {'before' if before else 'after'}"] = relative_error(
                    latents_of(pipe(**kind.inputs())), expected
                )
            finally:
                forget_xfuser()
    return errors


def _offload(pipe: Any, name: str, device: torch.device) -> None:
    from accelerate import cpu_offload, cpu_offload_with_hook

    if device.type == "cuda":
        getattr(pipe, f"enable_{name}_cpu_offload")(gpu_id=device.index)
        return
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            {"model": cpu_offload_with_hook, "sequential": cpu_offload}[name](part, device)


def with_backend(backend: str, dtype: torch.dtype) -> tuple[float, float]:
    """Differences to one process in fp32, of one process in this dtype and of two ranks with an attention backend."""
    import tokenring_xdit

    kind, device = FAMILIES["flux"], rank_device()
    exact, single = (latents_of(kind.make().to(device, each)(**kind.inputs())) for each in (torch.float32, dtype))
    pipe = kind.make().to(device, dtype)
    try:
        tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=2, attention_backend=backend)
        return relative_error(single, exact), relative_error(latents_of(pipe(**kind.inputs())), exact)
    finally:
        forget_xfuser()


def refusal_of_scattered() -> str:
    """What ``parallelize`` says to a pipeline whose parts were put on two devices, as ``"balanced"`` does."""
    import tokenring_xdit
    from tokenring_xdit.errors import UnsupportedError

    pipe = FAMILIES["flux"].make()
    pipe.transformer.hf_device_map, pipe.vae.hf_device_map = {"": 0}, {"": 1}
    try:
        tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=2)
    except UnsupportedError as error:
        return str(error)
    return ""


def compiled_afterwards(family: str, backend: str) -> float:
    """Relative error of a transformer that is compiled after ``parallelize``, with hidden keys of two prompts."""
    import tokenring_xdit

    kind = FAMILIES[family]
    prompts = {"prompts": ["a red fox in the snow", "a boat"]}
    expected = by_the_first(lambda: latents_of(kind.make()(**kind.inputs(**prompts))))
    torch._dynamo.reset()
    pipe = kind.make()
    try:
        tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=2)
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
        return relative_error(latents_of(pipe(**kind.inputs(**prompts))), expected)
    finally:
        forget_xfuser()


def error_with_arguments(family: str, options: dict[str, Any]) -> float:
    """Relative error of a call with further arguments."""
    import tokenring_xdit

    kind = FAMILIES[family]
    plain, expected = by_the_first(
        lambda: [latents_of(kind.make()(**{**kind.inputs(), **further})) for further in ({}, options)]
    )
    assert relative_error(plain, expected) > 1e-3, "they change nothing"
    pipe = kind.make()
    try:
        tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=2)
        return relative_error(latents_of(pipe(**{**kind.inputs(), **options})), expected)
    finally:
        forget_xfuser()


def refusal_of_arguments(family: str, options: dict[str, Any]) -> str:
    """What a parallel pipeline says to arguments that it cannot take."""
    import tokenring_xdit
    from tokenring_xdit.errors import UnsupportedError

    pipe = FAMILIES[family].make()
    try:
        tokenring_xdit.parallelize(pipe, host="xfuser", tokenring_degree=2)
        pipe(**{**FAMILIES[family].inputs(), **options})
    except UnsupportedError as error:
        return str(error)
    finally:
        forget_xfuser()
    return ""
