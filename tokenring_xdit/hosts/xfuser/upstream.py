"""Every name of xfuser (and of what it stands on) that this integration relies on, in one list.

Nothing outside this folder touches xfuser. ``tests/hosts/xfuser/test_upstream.py`` looks each
name up in the installed xfuser, so a release that moves one fails by that name.
"""

from __future__ import annotations

from tokenring_xdit.compat.torch import RING_MODULE
from tokenring_xdit.hosts.base import ReliedOn
from tokenring_xdit.hosts.xfuser.families import FAMILIES
from tokenring_xdit.hosts.xfuser.graphs import FLAG, NOT_BESIDE

__all__ = ["RELIED_ON", "TESTED_VERSION"]

TESTED_VERSION = "0.7.0"
"""The xfuser release that the facts in this folder were tried on."""

_USP = "xfuser.model_executor.layers.usp"
_ARGS = "xfuser.config.args"
_BACKENDS = "xfuser.core.distributed.attention_backend"
_PARALLEL = "xfuser.core.distributed.parallel_state"
_TORCH_RING = RING_MODULE
_STATE = "xfuser.core.distributed.runtime_state"


_SHARED = (
    ReliedOn(
        _USP,
        "ring_attn",
        "replaced by the dispatcher, kept for Ring",
        (
            "attention_function",
            "query",
            "key",
            "value",
            "dropout_p",
            "is_causal",
            "joint_attn_kwargs",
            "attention_kwargs",
        ),
    ),
    ReliedOn(
        _USP,
        "USP",
        "called by models; given replicated text as joint tensors",
        ("query", "key", "value", "joint_query", "joint_key", "joint_value", "joint_strategy"),
    ),
    ReliedOn(_USP, "_get_attention_function", "leaves hidden keys out under Ulysses", ("backend",)),
    ReliedOn(_USP, "attention", "local attention; exempt from masks", ("query", "key", "value")),
    ReliedOn(_USP, "_repeat_kv_heads", "left to the kernel under TokenRing", ("key", "value", "repeats")),
    ReliedOn(_USP, "PROCESS_GROUP", "None without a GPU; set from yunchang"),
    ReliedOn(_USP, "_sdpa_all_to_all_single", "counted as Ulysses traffic by `compare`, recorded by traces"),
    ReliedOn(
        _USP, "concat_joint_tensors_decorator", "wraps the attention function; passes through without joint tensors"
    ),
    ReliedOn(_TORCH_RING, "_AllGatherRotater.exchange_buffers", "recorded by traces", ("curr_buffer",)),
    ReliedOn(_TORCH_RING, "_AllGatherRotater.next_buffer", "recorded by traces"),
    ReliedOn(_TORCH_RING, "_AllToAllRotater.exchange_buffers", "recorded by traces", ("curr_buffer",)),
    ReliedOn(_TORCH_RING, "_AllToAllRotater.next_buffer", "recorded by traces"),
    ReliedOn(_TORCH_RING, "_SDPAMerger.step", "recorded by traces", ("out", "lse", "partial")),
    ReliedOn("yunchang.globals", "PROCESS_GROUP.RING_PG", "the ring group"),
    ReliedOn("yunchang.globals", "PROCESS_GROUP.ULYSSES_PG", "size of the Ulysses group"),
    ReliedOn(_BACKENDS, "ATTENTION_FUNCTION_REGISTRY", "kernels for CPU tensors and for fp32"),
    ReliedOn(_BACKENDS, "AttentionBackendType.SDPA_FLASH", "default kernel on a CPU"),
    ReliedOn(_BACKENDS, "AttentionBackendType.CUDNN", "default kernel on a GPU; repaired for fp32"),
    ReliedOn(_BACKENDS, "AttentionBackendType.SDPA_EFFICIENT", "computes fp32 on a GPU"),
    ReliedOn(_ARGS, "xFuserArgs.add_cli_args", "flags"),
    ReliedOn(_ARGS, "xFuserArgs.add_runner_args", "flags"),
    ReliedOn(_ARGS, "xFuserArgs.from_cli_args", "flags"),
    ReliedOn(_ARGS, "xFuserArgs.from_runner_args", "flags"),
    ReliedOn(_ARGS, "xFuserArgs.create_config", "carries the choice into the engine config"),
    ReliedOn("xfuser.config.config", "SequenceParallelConfig", "carries the choice at run time"),
    ReliedOn(_STATE, "RuntimeState._select_attention_backend", "default kernel on a CPU"),
    ReliedOn(_STATE, "DiTRuntimeState._calc_patches_metadata", "repaired for sizes that do not divide"),
    ReliedOn(
        _STATE, "DiTRuntimeState._check_pipeline_class_name", "tells which pipeline a state is for", ("pipeline",)
    ),
    ReliedOn(
        _STATE,
        "DiTRuntimeState._check_model_and_parallel_config",
        "refuses pipelines that were not compared",
        ("pipeline", "parallel_config"),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel._validate_config",
        "refuses models that were not compared, before they are loaded",
        ("config",),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel._customize_settings",
        "says which checkpoint a model name and a task mean",
        ("config",),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel.checkpoint_request_defaults",
        "says which revision of it",
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel.get_output_name",
        "given the TokenRing degree",
        ("input_args",),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel.initialize",
        "transformers are given CUDA graphs after it",
        ("input_args",),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel.run",
        "says what became of CUDA graphs",
        ("input_args",),
    ),
    ReliedOn(
        "xfuser.model_executor.models.runner_models.base_model",
        "ModelSettings.transformer_attr_names",
        "whose calls become CUDA graphs",
    ),
    ReliedOn("xfuser.cli", "get_nproc_from_args", "multiplied by the TokenRing degree", ("args",)),
    ReliedOn("xfuser.logger", "init_logger", "first module of xfuser; sets off register()"),
    ReliedOn(_STATE, "get_runtime_state", "where the choice is read"),
    ReliedOn(_STATE, "initialize_runtime_state", "one runtime state for each engine", ("pipeline", "engine_config")),
    ReliedOn(_STATE, "_RUNTIME", "exchanged when an engine is activated"),
    ReliedOn(_PARALLEL, "_WORLD", "exchanged when an engine is activated"),
    ReliedOn(_PARALLEL, "_SP", "exchanged when an engine is activated"),
    ReliedOn(_PARALLEL, "init_distributed_environment", "starts an engine", ("rank", "world_size")),
    ReliedOn(
        _PARALLEL,
        "initialize_model_parallel",
        "starts an engine",
        ("sequence_parallel_degree", "ulysses_degree", "ring_degree"),
    ),
    ReliedOn("xfuser.core.distributed", "get_sequence_parallel_world_size", "shard layout"),
    ReliedOn("xfuser.core.distributed", "get_sequence_parallel_rank", "shard layout"),
    ReliedOn("xfuser.core.distributed", "get_ulysses_parallel_world_size", "shard layout"),
    ReliedOn("xfuser.core.distributed", "get_pipeline_parallel_world_size", "shard layout"),
    ReliedOn("xfuser.core.distributed.group_coordinator", "synchronize", "imported by name from torch.cuda"),
    ReliedOn("xfuser.envs", "_is_cuda", "true for a CUDA build without a GPU"),
    ReliedOn("xfuser.envs", "get_device_version", "raises without an accelerator"),
    ReliedOn("xfuser.envs", "get_torch_distributed_backend", "raises without an accelerator"),
    ReliedOn("xfuser.envs", "PACKAGES_CHECKER.packages_info", "says whether yunchang may be used"),
    ReliedOn("xfuser.envs", "PackagesEnvChecker._on_rdna4", "asks a GPU for its name"),
    ReliedOn(
        "xfuser.model_executor.schedulers.base_scheduler",
        "xFuserSchedulerBaseWrapper",
        "taken off diffusers' scheduler, which steps on the whole latents",
    ),
    ReliedOn(
        "xfuser.core.distributed.group_coordinator",
        "GroupCoordinator.all_gather",
        "gathers latents and tokens",
        ("input_", "dim", "separate_tensors"),
    ),
    ReliedOn("xfuser.core.distributed", "get_sp_group", "gathers latents and tokens"),
    ReliedOn("xfuser.core.distributed", "get_data_parallel_world_size", "how prompts are shared out"),
    ReliedOn(
        "diffusers.hooks.first_block_cache",
        "FBCHeadBlockHook._should_compute_remaining_blocks",
        "decides by the data of all ranks",
        ("hidden_states_residual",),
    ),
    *(
        ReliedOn(_STATE, f"DiTRuntimeState.{name}", "how latents are cut")
        for name in (
            "_calc_cogvideox_patches_metadata",
            "backbone_patch_size",
            "num_pipeline_patch",
            "patch_mode",
            "pp_patches_start_end_idx_global",
            "pp_patches_start_idx_local",
            "pp_patches_token_num",
            "pp_patches_token_start_end_idx_global",
            "pp_patches_token_start_idx_local",
            "vae_scale_factor",
            "vae_scale_factor_spatial",
        )
    ),
    ReliedOn(
        "xfuser.core.distributed.group_coordinator",
        "PipelineGroupCoordinator._communicate_shapes",
        "sends without waiting on gloo",
        ("tensor_send_to_next", "recv_prev"),
    ),
    *(
        ReliedOn(
            "xfuser.core.distributed.group_coordinator",
            f"PipelineGroupCoordinator.{name}",
            "keeps what it sends on gloo",
        )
        for name in ("_pipeline_isend", "_pipeline_isend_skip", "destroy")
    ),
    ReliedOn(_ARGS, "xFuserArgs.pipefusion_parallel_degree", "refused together with Ulysses"),
    *(ReliedOn(_ARGS, f"xFuserArgs.{name}", f"refused together with --{FLAG}") for name in NOT_BESIDE),
    ReliedOn("xfuser.core.distributed", "get_classifier_free_guidance_rank", "masks of this rank's half"),
    ReliedOn("xfuser.core.distributed", "get_classifier_free_guidance_world_size", "masks of this rank's half"),
)
"""Those that are used whatever the model is."""

_FOUND = (*_SHARED, *(name for family in FAMILIES.values() for name in family.names()))

RELIED_ON: tuple[ReliedOn, ...] = tuple({(name.module, name.path): name for name in reversed(_FOUND)}.values())[::-1]
"""All of them, each once: those of a family are in its record."""
