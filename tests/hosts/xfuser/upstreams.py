"""On the worker ranks: what of unmodified upstream does not go together with a ring."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from tests.hosts.xfuser.generation import Case, engine
from tests.hosts.xfuser.jobs import initialize_groups
from tests.support.models import flux_pipeline


def registry() -> dict[str, list[str]]:
    """All model classes of the `xdit` command, and the names that they have there."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

    found: dict[str, list[str]] = {}
    for name, kind in MODEL_REGISTRY.items():
        found.setdefault(kind.__name__, []).append(name)
    return found


def refusals(names: dict[str, str]) -> dict[str, str]:
    """What is said to models, by class, that were asked for by name over two ranks; nothing where they are taken."""
    from tokenring_xdit.errors import UnsupportedError
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

    said = {}
    for kind, name in names.items():
        tasks = MODEL_REGISTRY[name].settings.valid_tasks
        args = xFuserArgs(model=name, task=tasks[0] if tasks else None)
        args.tokenring_degree = 2
        said[kind] = ""
        try:
            MODEL_REGISTRY[name](args)
        except UnsupportedError as error:
            said[kind] = str(error)
    return said


def checkpoints(*asked: tuple[str, str | None]) -> list[tuple[str, str | None]]:
    """What the command is going to load, and which revision of it, by name and task."""
    from tokenring_xdit.hosts.xfuser import register
    from tokenring_xdit.hosts.xfuser.runner import checkpoint_of

    register()
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

    return [checkpoint_of(MODEL_REGISTRY[name], name, task) for name, task in asked]


def what_vace_is_handed(degree: int, prompts: list[str]) -> list[Any]:
    """The prompts that the command's runner of Wan VACE hands to the pipeline."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.model_executor.models.runner_models.wan import xFuserWan21VACEModel

    handed: list[Any] = []

    def pipe(**given: Any) -> Any:
        handed.append(given["prompt"])
        return SimpleNamespace(frames=[None])

    runner = object.__new__(xFuserWan21VACEModel)
    runner.config = SimpleNamespace(tokenring_degree=degree)
    runner.pipe, runner._make_generator = pipe, lambda seed: None
    given = ("height", "width", "negative_prompt", "num_inference_steps", "num_frames", "guidance_scale", "seed")
    runner._run_pipe({**dict.fromkeys((*given, "video", "mask")), "prompt": prompts})
    return handed


def lingbot() -> str:
    """What upstream raises where it looks for LingBot's classes."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.model_executor.models.transformers.transformer_lingbot_video import get_lingbot_video_classes

    try:
        get_lingbot_video_classes()
    except ImportError as error:
        return str(error)
    return ""


@torch.no_grad()
def vsa() -> tuple[tuple[int, ...], bool]:
    """The output of FastH3's attention in one process, and whether a log-sum-exp comes with it."""
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType
    from xfuser.core.vsa_h3_attention import build_h3_vsa_metadata

    segments, grid = (64,), (4, 8, 8)
    q, k, v, gate = torch.randn(4, 1, 2, sum(segments) + math.prod(grid), 16).unbind()
    metadata = build_h3_vsa_metadata(segments, grid, torch.device("cpu"))
    attend = ATTENTION_FUNCTION_REGISTRY[AttentionBackendType.TRITON_VSA_H3]  # elsewhere than on GPUs FlexAttention
    with torch._dynamo.config.patch(disable=True), pytest.MonkeyPatch.context() as patch:  # a compiler takes a minute
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
        out, lse = attend(q, k, v, 0.0, False, {"vsa_h3_metadata": metadata, "vsa_h3_gate": gate})
    return tuple(out.shape), lse is not None


def sparse_blocks() -> dict[str, str]:
    """What upstream raises where HunyuanVideo 1.5 Sparse attends, with each of its kernels, in one process."""
    with engine(Case("flux")) as config:
        from xfuser.core.distributed import initialize_runtime_state
        from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType

        initialize_groups(config)
        initialize_runtime_state(flux_pipeline(), config)
        grid = (4, 8, 8)
        given: dict[str, Any] = {
            **dict.fromkeys(("ssta_adaptive_pool", "text_mask")),
            "ssta_threshold": 0.0,
            "ssta_lambda": 0.7,
            "ssta_sampling_type": "importance",
            "ssta_topk": 4,
            "attn_pad_type": "zero",
            "attn_use_text_mask": False,
            "attn_mask_share_within_head": False,
            "attn_sparse_type": "ssta",
            "encoder_sequence_length": 0,
            "thw": grid,
            "tile_size": (2, 8, 8),
            "win_size": [[1, 1, 1]],
            "sparse_text_to_image": False,
        }
        raised = {}
        for name in ("FLEX_BLOCK_ATTN", "AITER_SPARSE_SAGE", "AITER_SPARSE_SAGE_V2"):
            q, k, v = torch.randn(3, 1, 2, math.prod(grid), 16).unbind()
            try:
                ATTENTION_FUNCTION_REGISTRY[AttentionBackendType[name]](q, k, v, 0.0, False, dict(given))
            except NameError as error:
                raised[name] = str(error)
        return raised


def a_u_net() -> str:
    """What upstream raises where SDXL is to be divided by its sequence."""
    with engine(Case("flux", ring=2)) as config:
        from xfuser.core.distributed import initialize_runtime_state
        from xfuser.model_executor.pipelines.pipeline_stable_diffusion_xl import xFuserStableDiffusionXLPipeline

        initialize_groups(config)
        initialize_runtime_state(flux_pipeline(), config)
        try:
            xFuserStableDiffusionXLPipeline.__call__(None)
        except RuntimeError as error:
            return str(error)
    return ""


@torch.no_grad()
def sana_attends() -> list[str]:
    """Which functions of softmax attention Sana's self-attention calls."""
    from diffusers.models.attention_processor import Attention, SanaLinearAttnProcessor2_0

    called: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch.nn.functional, "scaled_dot_product_attention"), (torch.Tensor, "softmax")):
            patch.setattr(owner, name, lambda *_, name=name, **__: called.append(name))
        attention = Attention(query_dim=32, heads=2, dim_head=16, processor=SanaLinearAttnProcessor2_0())
        assert attention(torch.randn(1, 24, 32)).shape == (1, 24, 32)
    return called
