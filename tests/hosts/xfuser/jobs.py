"""What the worker ranks run in the xfuser tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from tests.hosts.xfuser.generation import forget_xfuser
from tests.support.models import flux_inputs, flux_pipeline
from tests.support.ranks import by_the_first, rank_device
from tests.support.reference import relative_error


@dataclass(frozen=True)
class FluxCase:
    """One Flux generation."""

    pipeline: str = "xfuser"  # xFuserFluxPipeline, or "diffusers": FluxPipeline with xfuser's transformer
    tokenring: int = 1
    ulysses: int = 1
    ring: int = 1
    schedule: str = "token_ring"
    text_tokens: int = 12
    height: int = 96
    width: int = 64
    batch: int = 1
    guidance: bool = False
    dtype: torch.dtype = torch.float32


@contextmanager
def engine(case: FluxCase) -> Iterator[Any]:
    """Xfuser with its groups for one job; its globals are cleared afterwards."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.core.distributed.parallel_state import init_distributed_environment

    init_distributed_environment(rank=dist.get_rank(), world_size=dist.get_world_size())
    args = xFuserArgs(model="small", ulysses_degree=case.ulysses, ring_degree=case.ring, warmup_steps=0)
    args.tokenring_degree = case.tokenring
    args.tokenring_schedule = case.schedule
    try:
        config, _ = args.create_config()
        yield config
    finally:
        forget_xfuser()


@torch.no_grad()
def run_flux(case: FluxCase) -> torch.Tensor | None:
    """Latents of one generation through xfuser."""
    inputs = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width, batch=case.batch)
    _cast(inputs, case.dtype)
    with engine(case) as config:
        from xfuser import xFuserFluxPipeline
        from xfuser.core.distributed import get_runtime_state, initialize_runtime_state
        from xfuser.model_executor.models.transformers.transformer_flux import xFuserFlux1Transformer2DWrapper

        if case.pipeline == "xfuser":
            pipe = xFuserFluxPipeline(flux_pipeline(guidance=case.guidance).to(case.dtype), config)
        else:
            # as xfuser/model_executor/models/runner_models/flux.py does it; the groups exist before the model
            initialize_groups(config)
            pipe = flux_pipeline(guidance=case.guidance, transformer_class=xFuserFlux1Transformer2DWrapper).to(
                case.dtype
            )
            initialize_runtime_state(pipe, config)
            get_runtime_state().set_input_parameters(
                batch_size=case.batch,
                num_inference_steps=3,
                max_condition_sequence_length=case.text_tokens,
                split_text_embed_in_sp=True,
            )
        output = pipe(**inputs)
        return None if output is None else output.images


def initialize_groups(config: Any) -> None:
    """Xfuser's process groups, as its runner makes them."""
    from xfuser.core.distributed.parallel_state import initialize_model_parallel

    parallel = config.parallel_config
    initialize_model_parallel(
        ulysses_degree=parallel.ulysses_degree,
        ring_degree=parallel.ring_degree,
        sequence_parallel_degree=parallel.sp_degree,
    )


def _cast(inputs: dict[str, Any], dtype: torch.dtype) -> None:
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        inputs[name] = inputs[name].to(dtype)


@torch.no_grad()
def flux_error(case: FluxCase) -> float:
    """Largest difference to the unmodified single-process diffusers pipeline, relative to its scale."""
    inputs = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width, batch=case.batch)
    _cast(inputs, case.dtype)
    expected = by_the_first(lambda: flux_pipeline(guidance=case.guidance).to(case.dtype)(**inputs).images)
    actual = run_flux(case)
    return 0.0 if actual is None else relative_error(actual, expected)


@torch.no_grad()
def bf16_errors(case: FluxCase) -> tuple[float, float]:
    """Errors of bf16 against fp32: one process, and xfuser."""
    import dataclasses

    exact = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width)
    half = flux_inputs(text_tokens=case.text_tokens, height=case.height, width=case.width)
    _cast(half, torch.bfloat16)
    expected, single = by_the_first(
        lambda: (flux_pipeline()(**exact).images, flux_pipeline().to(torch.bfloat16)(**half).images)
    )
    actual = run_flux(dataclasses.replace(case, dtype=torch.bfloat16))
    return relative_error(single, expected), 0.0 if actual is None else relative_error(actual, expected)


def same_bits_as_unpatched(case: FluxCase) -> bool:
    """Whether a strategy of xfuser's own gives the same bits with our hooks and without them."""
    from xfuser.core.distributed import runtime_state
    from xfuser.model_executor.layers import usp
    from xfuser.model_executor.models.transformers import transformer_flux
    from xfuser.model_executor.pipelines import pipeline_flux

    patched = run_flux(case)
    hooked = [
        (usp, "ring_attn"),
        (transformer_flux, "USP"),
        (transformer_flux.xFuserFlux1Transformer2DWrapper, "forward"),
        (pipeline_flux.xFuserFluxPipeline, "_sync_pipeline"),
        (runtime_state.DiTRuntimeState, "_calc_patches_metadata"),
    ]
    ours = [getattr(owner, name) for owner, name in hooked]
    try:
        for (owner, name), function in zip(hooked, ours, strict=True):
            setattr(owner, name, function.__wrapped__)
        plain = run_flux(case)
    finally:
        for (owner, name), function in zip(hooked, ours, strict=True):
            setattr(owner, name, function)
    return (patched is None and plain is None) or torch.equal(patched, plain)


def bytes_by_strategy() -> dict[str, int]:
    """What our sends carried while TokenRing ran, and while Ring ran."""
    from tokenring_xdit.attention import groups

    def sent_by(case: FluxCase) -> int:
        before = sum(g.bytes_sent for g in groups._groups.values())
        run_flux(case)
        return sum(g.bytes_sent for g in groups._groups.values()) - before

    groups._groups.clear()
    return {"ring, as our sends": sent_by(FluxCase(ring=2)), "tokenring": sent_by(FluxCase(tokenring=2))}


@torch.no_grad()
def errors_of_alternating_states() -> float:
    """Ulysses, Ring, TokenRing and a hybrid run one wrapped pipeline by turns; the largest error."""
    from tokenring_xdit.hosts.xfuser import ShardedPipeline, XfuserState
    from tokenring_xdit.parallel import ParallelDims

    inputs = {"text_tokens": 12, "height": 96, "width": 64}
    expected = by_the_first(lambda: flux_pipeline()(**flux_inputs(**inputs)).images)
    wanted = [
        ParallelDims(ulysses=4),
        ParallelDims(ring=4),
        ParallelDims(tokenring=4),
        ParallelDims(ulysses=2, tokenring=2),
    ]
    engines = [XfuserState(degrees, one_of_several=True) for degrees in wanted]
    sharded = ShardedPipeline(flux_pipeline(), engines[0])
    worst = 0.0
    for engine in engines * 2:
        sharded.use(engine)
        output = sharded(**flux_inputs(**inputs))
        if output is not None:
            worst = max(worst, relative_error(output.images, expected))
    clear_globals()
    return worst


@torch.no_grad()
def errors_of_two_sizes() -> float:
    """16 tokens, then 15, then 16 again, through one sharded pipeline; the largest error."""
    from tokenring_xdit.hosts.xfuser import ShardedPipeline, XfuserState
    from tokenring_xdit.parallel import ParallelDims

    sharded = ShardedPipeline(flux_pipeline(), XfuserState(ParallelDims(tokenring=4)))
    worst = 0.0
    for height, width in ((16, 16), (20, 12), (16, 16)):
        inputs = {"text_tokens": 12, "height": height, "width": width}
        output = sharded(**flux_inputs(**inputs))
        if output is not None:
            worst = max(worst, relative_error(output.images, flux_pipeline()(**flux_inputs(**inputs)).images))
    clear_globals()
    return worst


def clear_globals() -> None:
    """Make xfuser forget its groups, which the pool destroys."""
    from xfuser.core.distributed import parallel_state, runtime_state

    for name in list(vars(parallel_state)):
        if name in {"_WORLD", "_MODEL_REPLICA", "_DP", "_CFG", "_PP", "_SP", "_TP", "_FS", "_VAE", "_DIT"}:
            setattr(parallel_state, name, None)
    runtime_state._RUNTIME = None


def refusals_at_the_seam() -> dict[str, str]:
    """What ``ring_attn`` says to calls that TokenRing would compute wrongly."""
    from tokenring_xdit.errors import TokenRingError

    messages = {}
    with engine(FluxCase(tokenring=2)) as config:
        from xfuser.core.distributed import initialize_runtime_state
        from xfuser.model_executor.layers import usp

        initialize_groups(config)
        initialize_runtime_state(flux_pipeline(), config)
        q = torch.randn(1, 2, 4, 8)

        def without_lse(query: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
            return query, None

        attention = usp._get_attention_function()
        calls: dict[str, tuple[Any, dict[str, Any]]] = {
            "dropout_p": (attention, {"dropout_p": 0.1}),
            "attn_mask": (attention, {"attention_kwargs": {"attn_mask": torch.ones(1)}}),
            "no lse": (without_lse, {}),
        }
        for name, (function, options) in calls.items():
            try:
                usp.ring_attn(function, q, q, q, **options)
            except TokenRingError as error:
                messages[name] = str(error)
    return messages


def broken_names() -> dict[str, str]:
    """Upstream names that are gone."""
    from tokenring_xdit.hosts.xfuser import register
    from tokenring_xdit.hosts.xfuser.upstream import RELIED_ON

    register()
    found = {f"{name.module}.{name.path}": name.problem() for name in RELIED_ON}
    return {name: problem for name, problem in found.items() if problem is not None}


def flags() -> dict[str, Any]:
    """What xfuser's parsers and configs make of our flags."""
    from tokenring_xdit.errors import TokenRingError
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.config.args import FlexibleArgumentParser
    from xfuser.core.distributed import parallel_state

    seen: dict[str, Any] = {}
    parser = xFuserArgs.add_cli_args(FlexibleArgumentParser())
    base = ["--model", "small", "--warmup_steps", "0"]
    for style in ("--tokenring_degree", "--tokenring-degree"):
        args = xFuserArgs.from_cli_args(parser.parse_args([*base, style, "2", "--tokenring_schedule", "ring"]))
        config, _ = args.create_config()
        sp = config.parallel_config.sp_config
        seen[style] = (sp.ring_degree, sp.ulysses_degree, sp.tokenring, args.ring_degree)
    seen["off"] = (
        xFuserArgs.from_cli_args(parser.parse_args([*base, "--ring_degree", "2"]))
        .create_config()[0]
        .parallel_config.sp_config.tokenring
    )
    runner = xFuserArgs.add_runner_args(FlexibleArgumentParser())
    given = vars(runner.parse_args(["--model", "FLUX.1-dev", "--tokenring_degree", "2"]))
    seen["runner"] = xFuserArgs.from_runner_args(given).tokenring_degree
    seen["help"] = parser.format_help()
    for name, options in {
        "both": ["--tokenring_degree", "2", "--ring_degree", "2", "--tokenring_schedule", "mesh"],
        "schedule": ["--tokenring_degree", "2", "--tokenring_schedule", "rings"],
        "degree": ["--tokenring_degree", "0"],
        "three": ["--tokenring_degree", "2", "--ulysses_degree", "2", "--pipefusion_parallel_degree", "2"],
    }.items():
        try:
            xFuserArgs.from_cli_args(parser.parse_args([*base, *options])).create_config()
        except TokenRingError as error:
            seen[name] = str(error)
    seen["no graphs"] = "--tokenring_cuda_graphs" in parser.format_help()
    graphed = ["--model", "FLUX.1-dev", "--tokenring_cuda_graphs"]
    for name, options, gpus in (("graphs", [], False), ("graphs and compile", ["--use_torch_compile"], True)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.cuda, "is_available", lambda found=gpus: found)
            try:
                xFuserArgs.from_runner_args(vars(runner.parse_args([*graphed, *options]))).create_config()
            except TokenRingError as error:
                seen[name] = str(error)
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY
    from xfuser.runner import xFuserModelRunner

    seen["models"] = {model.__name__ for model in MODEL_REGISTRY.values()}
    for model in ("LingBot-Video-MoE", "FLUX.1-dev"):
        try:
            seen[model] = type(xFuserModelRunner({"model": model, "tokenring_degree": 2}).model).__name__
        except TokenRingError as error:
            seen[model] = str(error)
    parallel_state._WORLD = None
    return seen


def refusal_of_another_pipeline() -> str:
    """What an engine with TokenRing says to a pipeline that was not compared."""
    from tokenring_xdit.errors import UnsupportedError

    class SanaPipeline:
        __module__ = "diffusers"
        transformer = flux_pipeline().transformer

    with engine(FluxCase(tokenring=2)) as config:
        from xfuser.core.distributed import initialize_runtime_state

        initialize_groups(config)
        try:
            initialize_runtime_state(SanaPipeline(), config)
        except UnsupportedError as error:
            return str(error)
    return "ran"


@dataclass(frozen=True)
class Grouped:
    """How grouped-query attention through ``USP`` went on one rank.

    Attributes:
        error: Difference to plain attention in fp64.
        heads: Heads of keys that reached the ring.
    """

    error: float
    heads: int


@torch.no_grad()
def grouped_heads(case: FluxCase) -> Grouped:
    """``USP`` with eight heads of queries and four of keys, on this rank's part of a sequence."""
    from tests.support.reference import softmax_attention

    with engine(case) as config:
        from xfuser.core.distributed import get_sequence_parallel_rank, initialize_runtime_state
        from xfuser.model_executor.layers import usp

        initialize_groups(config)
        initialize_runtime_state(flux_pipeline(), config)
        generator = torch.Generator().manual_seed(3)
        q, k, v = (torch.randn(2, heads, 48, 16, generator=generator) for heads in (8, 4, 4))
        ranks, rank = case.tokenring * case.ulysses * case.ring, get_sequence_parallel_rank()
        local = [x.chunk(ranks, dim=2)[rank] for x in (q, k, v)]
        heads: list[int] = []
        original = usp.ring_attn

        def record(function: Any, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            heads.append(key.shape[1])
            return original(function, query, key, *args, **kwargs)

        usp.ring_attn = record
        try:
            out = usp.USP(*local, combine_qkv_a2a=True, kv_head_repeat=2)
        finally:
            usp.ring_attn = original
    expected, _ = softmax_attention(q, k, v)
    (reached,) = heads
    return Grouped(relative_error(out, expected.chunk(ranks, dim=2)[rank]), reached)


@torch.no_grad()
def joint_error(case: FluxCase, strategy: str) -> float:
    """Difference of ``USP`` to plain attention in fp64, with text that every rank holds in front or at the rear."""
    from tests.support.reference import softmax_attention

    with engine(case) as config:
        from xfuser.core.distributed import get_sequence_parallel_rank, initialize_runtime_state
        from xfuser.model_executor.layers import usp

        initialize_groups(config)
        initialize_runtime_state(flux_pipeline(), config)
        generator = torch.Generator().manual_seed(4)
        image = [torch.randn(2, 4, 48, 16, generator=generator) for _ in range(3)]
        text = [torch.randn(2, 4, 7, 16, generator=generator) for _ in range(3)]
        ranks, rank = case.tokenring * case.ulysses, get_sequence_parallel_rank()
        joint = dict(zip(("joint_query", "joint_key", "joint_value"), text, strict=True))
        own = [x.chunk(ranks, dim=2)[rank] for x in image]
        out = usp.USP(*own, **joint, joint_strategy=strategy)

    def arranged(shard: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return torch.cat([whole, shard] if strategy == "front" else [shard, whole], dim=2)

    keys, values = (arranged(image[i], text[i]) for i in (1, 2))
    expected, _ = softmax_attention(arranged(own[0], text[0]), keys, values)
    return relative_error(out, expected)


def operators_of_attention(case: Any, as_is: bool) -> tuple[dict[str, list[str]], list[str]]:
    """What ``torch.compile(mode="reduce-overhead")`` sees in the place of attention, with tags, and what is said.

    Args:
        case: What is generated.
        as_is: Run the graph as it is, instead of what inductor makes of it.
    """
    from tests.hosts.xfuser.generation import engine, with_wrapped_transformer
    from tests.support.families import FAMILIES
    from tokenring_xdit.hosts.xfuser import dispatch

    family, seen, said = FAMILIES[case.family], {}, logging.Handler()
    lines: list[str] = []
    said.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]

    def look(graph: Any, inputs: Any) -> Any:
        for node in graph.graph.nodes:
            name = str(node.target)
            if name.startswith("tokenring_xdit."):
                seen[name] = [str(tag).removeprefix("Tag.") for tag in node.target.default.tags]
        return graph.forward if as_is else inductor(graph, inputs)

    dispatch._told.clear()
    dispatch.log.addHandler(said)
    torch._dynamo.reset()
    inductor = torch._TorchCompileInductorWrapper("reduce-overhead", None, False)
    try:
        with engine(case) as config, torch.no_grad():
            pipe = with_wrapped_transformer(family, config, case, family.inputs(**case.inputs))
            pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, backend=look)
            pipe(**family.inputs(**case.inputs))
    finally:
        dispatch.log.removeHandler(said)
    return seen, lines


def groups_of_states(degrees: list[Any]) -> list[int]:
    """How many process groups this rank belongs to after each of some states."""
    from tokenring_xdit.hosts.xfuser import XfuserState

    counts = []
    for each in degrees:
        XfuserState(each, one_of_several=True)
        counts.append(len(dist.distributed_c10d._world.pg_names))
    clear_globals()
    return counts


class _Watch(TorchDispatchMode):
    """Which operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _backend(name: str) -> Any:
    """The function that xfuser calls for an attention backend."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType

    return ATTENTION_FUNCTION_REGISTRY[AttentionBackendType[name]]


def operators_of_backend(backend: str, dtype: torch.dtype) -> tuple[list[str], tuple[int, ...]]:
    """What a backend of xfuser calls, and the shape of its log-sum-exp, on the meta device: nothing is computed."""
    q = torch.empty(2, 3, 70, 16, device="meta", dtype=dtype)
    attend = _backend(backend)
    with _Watch() as watch:
        _, lse = attend(q, q, q, 0.0, False)
    return [name for name in watch.seen if "attention" in name], tuple(lse.shape)


def cudnn_makes_nan_of_fp32() -> bool:
    """Whether xfuser's own function does, on this rank's GPU."""
    q = torch.randn(2, 3, 70, 16, device=rank_device())
    out, _ = _backend("CUDNN").__wrapped__(q, q, q, 0.0, False)
    return bool(out.isnan().any())
