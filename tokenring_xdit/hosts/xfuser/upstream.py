"""Every name of xfuser (and of what it stands on) that this integration relies on, in one list.

Nothing outside this folder touches xfuser. ``tests/hosts/xfuser/test_upstream.py`` looks each
name up in the installed xfuser, so a release that moves one fails by that name.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass

from tokenring_xdit.compat.torch import RING_MODULE

__all__ = ["RELIED_ON", "TESTED_VERSION", "UpstreamName", "broken_names"]

TESTED_VERSION = "0.7.0"
"""The xfuser release that the facts in this folder were tried on."""

_USP = "xfuser.model_executor.layers.usp"
_FLUX = "xfuser.model_executor.models.transformers.transformer_flux"
_ARGS = "xfuser.config.args"
_BACKENDS = "xfuser.core.distributed.attention_backend"
_PROCESSORS = "xfuser.model_executor.layers.attention_processor"
_MODELS = "xfuser.model_executor.models.transformers."
_PIPELINES = "xfuser.model_executor.pipelines."
_PARALLEL = "xfuser.core.distributed.parallel_state"
_TORCH_RING = RING_MODULE
_STATE = "xfuser.core.distributed.runtime_state"


@dataclass(frozen=True)
class UpstreamName:
    """A name that has to exist upstream.

    Attributes:
        module: Module that defines it.
        path: Attribute path inside the module.
        use: What this integration does with it.
        parameters: Names of parameters that a callable has to have.
    """

    module: str
    path: str
    use: str
    parameters: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """What is wrong with the name in the installed release, or ``None``."""
        try:
            value: object = importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} cannot be imported: {error}"
        for part in self.path.split("."):
            if _annotated(value, part):
                return None  # set by instances
            if not hasattr(value, part):
                return f"{self.module} has no {self.path}"
            value = getattr(value, part)
        if self.parameters and callable(value):
            missing = set(self.parameters) - set(inspect.signature(value).parameters)
            if missing:
                return f"{self.module}.{self.path} lost the parameters {sorted(missing)}"
        return None


def _annotated(owner: object, name: str) -> bool:
    classes = owner.__mro__ if isinstance(owner, type) else ()
    return not hasattr(owner, name) and any(name in vars(c).get("__annotations__", {}) for c in classes)


RELIED_ON: tuple[UpstreamName, ...] = (
    UpstreamName(
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
    UpstreamName(
        _USP,
        "USP",
        "called by models; given replicated text as joint tensors",
        ("query", "key", "value", "joint_query", "joint_key", "joint_value", "joint_strategy"),
    ),
    UpstreamName(_USP, "_get_attention_function", "leaves hidden keys out under Ulysses", ("backend",)),
    UpstreamName(
        _USP, "attention", "local attention, for Latte's frames; exempt from masks", ("query", "key", "value")
    ),
    UpstreamName(_USP, "_repeat_kv_heads", "left to the kernel under TokenRing", ("key", "value", "repeats")),
    UpstreamName(_USP, "PROCESS_GROUP", "None without a GPU; set from yunchang"),
    UpstreamName(_USP, "_sdpa_all_to_all_single", "counted as Ulysses traffic by `compare`, recorded by traces"),
    UpstreamName(
        _USP, "concat_joint_tensors_decorator", "wraps the attention function; passes through without joint tensors"
    ),
    UpstreamName(_TORCH_RING, "_AllGatherRotater.exchange_buffers", "recorded by traces", ("curr_buffer",)),
    UpstreamName(_TORCH_RING, "_AllGatherRotater.next_buffer", "recorded by traces"),
    UpstreamName(_TORCH_RING, "_AllToAllRotater.exchange_buffers", "recorded by traces", ("curr_buffer",)),
    UpstreamName(_TORCH_RING, "_AllToAllRotater.next_buffer", "recorded by traces"),
    UpstreamName(_TORCH_RING, "_SDPAMerger.step", "recorded by traces", ("out", "lse", "partial")),
    UpstreamName("yunchang.globals", "PROCESS_GROUP.RING_PG", "the ring group"),
    UpstreamName("yunchang.globals", "PROCESS_GROUP.ULYSSES_PG", "size of the Ulysses group"),
    UpstreamName(_BACKENDS, "ATTENTION_FUNCTION_REGISTRY", "kernels for CPU tensors and for fp32"),
    UpstreamName(_BACKENDS, "AttentionBackendType.SDPA_FLASH", "default kernel on a CPU"),
    UpstreamName(_BACKENDS, "AttentionBackendType.CUDNN", "default kernel on a GPU; repaired for fp32"),
    UpstreamName(_BACKENDS, "AttentionBackendType.SDPA_EFFICIENT", "computes fp32 on a GPU"),
    UpstreamName(_ARGS, "xFuserArgs.add_cli_args", "flags"),
    UpstreamName(_ARGS, "xFuserArgs.add_runner_args", "flags"),
    UpstreamName(_ARGS, "xFuserArgs.from_cli_args", "flags"),
    UpstreamName(_ARGS, "xFuserArgs.from_runner_args", "flags"),
    UpstreamName(_ARGS, "xFuserArgs.create_config", "carries the choice into the engine config"),
    UpstreamName("xfuser.config.config", "SequenceParallelConfig", "carries the choice at run time"),
    UpstreamName(_STATE, "RuntimeState._select_attention_backend", "default kernel on a CPU"),
    UpstreamName(_STATE, "DiTRuntimeState._calc_patches_metadata", "repaired for sizes that do not divide"),
    UpstreamName(
        _STATE, "DiTRuntimeState._check_pipeline_class_name", "tells which pipeline a state is for", ("pipeline",)
    ),
    UpstreamName(
        _STATE,
        "DiTRuntimeState._check_model_and_parallel_config",
        "refuses pipelines that were not compared",
        ("pipeline", "parallel_config"),
    ),
    UpstreamName(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel._validate_config",
        "refuses models that were not compared, before they are loaded",
        ("config",),
    ),
    UpstreamName(
        "xfuser.model_executor.models.runner_models.base_model",
        "xFuserModel.get_output_name",
        "given the TokenRing degree",
        ("input_args",),
    ),
    UpstreamName("xfuser.cli", "get_nproc_from_args", "multiplied by the TokenRing degree", ("args",)),
    UpstreamName("xfuser.logger", "init_logger", "first module of xfuser; sets off register()"),
    UpstreamName(_STATE, "get_runtime_state", "where the choice is read"),
    UpstreamName(
        _STATE, "initialize_runtime_state", "one runtime state for each engine", ("pipeline", "engine_config")
    ),
    UpstreamName(_STATE, "_RUNTIME", "exchanged when an engine is activated"),
    UpstreamName(_PARALLEL, "_WORLD", "exchanged when an engine is activated"),
    UpstreamName(_PARALLEL, "_SP", "exchanged when an engine is activated"),
    UpstreamName(_PARALLEL, "init_distributed_environment", "starts an engine", ("rank", "world_size")),
    UpstreamName(
        _PARALLEL,
        "initialize_model_parallel",
        "starts an engine",
        ("sequence_parallel_degree", "ulysses_degree", "ring_degree"),
    ),
    UpstreamName("xfuser", "xFuserFluxPipeline", "runs Flux"),
    UpstreamName("xfuser.core.distributed", "get_sequence_parallel_world_size", "shard layout"),
    UpstreamName("xfuser.core.distributed", "get_sequence_parallel_rank", "shard layout"),
    UpstreamName("xfuser.core.distributed", "get_ulysses_parallel_world_size", "shard layout"),
    UpstreamName("xfuser.core.distributed", "get_pipeline_parallel_world_size", "shard layout"),
    UpstreamName("xfuser.core.distributed.group_coordinator", "synchronize", "imported by name from torch.cuda"),
    UpstreamName("xfuser.envs", "_is_cuda", "true for a CUDA build without a GPU"),
    UpstreamName("xfuser.envs", "get_device_version", "raises without an accelerator"),
    UpstreamName("xfuser.envs", "get_torch_distributed_backend", "raises without an accelerator"),
    UpstreamName("xfuser.envs", "PACKAGES_CHECKER.packages_info", "says whether yunchang may be used"),
    UpstreamName("xfuser.envs", "PackagesEnvChecker._on_rdna4", "asks a GPU for its name"),
    UpstreamName(_FLUX, "USP", "the module's own reference, replaced by the repair"),
    UpstreamName(_FLUX, "xFuserFlux1Transformer2DWrapper.forward", "told about padding and replicated text"),
    UpstreamName(_FLUX, "xFuserFlux1Transformer2DWrapper.pad_to_sp_divisible", "called upstream by another name"),
    UpstreamName(
        _PIPELINES + "pipeline_flux",
        "xFuserFluxPipeline._sync_pipeline",
        "pads and unpads image tokens",
        ("latents", "latent_image_ids", "prompt_embeds"),
    ),
    UpstreamName(
        _PIPELINES + "pipeline_flux_control",
        "xFuserPipelineFluxControlPipeline._sync_pipeline",
        "pads and unpads image tokens",
        ("latents", "latent_image_ids", "prompt_embeds", "control_image"),
    ),
    UpstreamName(_PROCESSORS, "USP", "the module's own reference, replaced by the repair of Latte"),
    UpstreamName(
        _PROCESSORS, "xFuserAttnProcessor2_0.__call__", "attends over time locally", ("latte_temporal_attention",)
    ),
    UpstreamName(
        _PROCESSORS,
        "xFuserJointAttnProcessor2_0.__call__",
        "replaced where there is no text",
        ("attn", "hidden_states", "encoder_hidden_states"),
    ),
    UpstreamName(
        _MODELS + "transformer_flux2",
        "xFuserFlux2Transformer2DWrapper.forward",
        "given padded text, told about padding",
        ("hidden_states", "encoder_hidden_states", "txt_ids"),
    ),
    UpstreamName(
        _MODELS + "transformer_wan", "xFuserWanTransformer3DWrapper.forward", "told about padding", ("hidden_states",)
    ),
    UpstreamName(
        _MODELS + "transformer_qwen",
        "xFuserQwenImageTransformerWrapper.forward",
        "told about padding and masked text",
        ("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask"),
    ),
    UpstreamName(
        _MODELS + "transformer_hunyuan_video",
        "xFuserHunyuanVideoTransformer3DWrapper.forward",
        "given more frames, told about padding and masked text",
        ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    ),
    UpstreamName(
        _MODELS + "transformer_ltx2",
        "xFuserLTX2VideoTransformer3DWrapper.forward",
        "refuses sizes that would be padded",
        ("hidden_states",),
    ),
    UpstreamName(_MODELS + "transformer_z_image", "xFuserZImageTransformer2DWrapper.forward", "told about padding"),
    UpstreamName(
        _MODELS + "transformer_z_image",
        "xFuserZImageTransformer2DWrapper._chunk_and_pad_sequence",
        "cuts the masks that say what is real",
        ("x",),
    ),
    UpstreamName(_MODELS + "transformer_z_image", "ZImageTransformer2DModel", "whose parameters the wrapper hides"),
    UpstreamName(
        "xfuser.model_executor.schedulers.base_scheduler",
        "xFuserSchedulerBaseWrapper",
        "taken off diffusers' scheduler, which steps on the whole latents",
    ),
    *(
        UpstreamName(_PIPELINES + module, f"{name}.__call__", "made one call of all ranks")
        for module, name in (
            ("pipeline_cogvideox", "xFuserCogVideoXPipeline"),
            ("pipeline_flux", "xFuserFluxPipeline"),
            ("pipeline_flux_control", "xFuserPipelineFluxControlPipeline"),
            ("pipeline_hunyuandit", "xFuserHunyuanDiTPipeline"),
            ("pipeline_latte", "xFuserLattePipeline"),
            ("pipeline_lumina2", "xFuserLumina2Pipeline"),
            ("pipeline_pixart_alpha", "xFuserPixArtAlphaPipeline"),
            ("pipeline_pixart_sigma", "xFuserPixArtSigmaPipeline"),
            ("pipeline_stable_diffusion_3", "xFuserStableDiffusion3Pipeline"),
        )
    ),
    UpstreamName(
        _PIPELINES + "pipeline_stable_diffusion_3",
        "xFuserStableDiffusion3Pipeline._backbone_forward",
        "given one prompt's embeddings where there is no guidance",
        ("latents", "encoder_hidden_states", "pooled_prompt_embeds", "t"),
    ),
    *(
        UpstreamName(_MODELS + module, f"{name}.forward", "scales a LoRA for the call")
        for module, name in (
            ("cogvideox_transformer_3d", "xFuserCogVideoXTransformer3DWrapper"),
            ("transformer_flux", "xFuserFluxTransformer2DWrapper"),
            ("transformer_sd3", "xFuserSD3Transformer2DWrapper"),
        )
    ),
    UpstreamName(
        "xfuser.core.distributed.group_coordinator",
        "GroupCoordinator.all_gather",
        "gathers latents and tokens",
        ("input_", "dim", "separate_tensors"),
    ),
    UpstreamName("xfuser.core.distributed", "get_sp_group", "gathers latents and tokens"),
    UpstreamName("xfuser.core.distributed", "get_data_parallel_world_size", "how prompts are shared out"),
    UpstreamName(
        _MODELS + "transformer_lumina2",
        "xFuserLumina2AttnProcessor2_0.__call__",
        "put into diffusers' own transformer, whose grouped heads it leaves as they are",
    ),
    UpstreamName(
        "diffusers.hooks.first_block_cache",
        "FBCHeadBlockHook._should_compute_remaining_blocks",
        "decides by the data of all ranks",
        ("hidden_states_residual",),
    ),
    *(
        UpstreamName(_STATE, f"DiTRuntimeState.{name}", "how latents are cut")
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
    UpstreamName(
        _MODELS + "transformer_lumina2",
        "xFuserLumina2Transformer2DWrapper.forward",
        "told about padding and masked text",
        ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    ),
    UpstreamName(_MODELS + "transformer_lumina2", "USP", "the module's own reference, given no mask"),
    UpstreamName(_MODELS + "transformer_lumina2", "get_ring_parallel_world_size", "read by the refusal that is lifted"),
    *(
        UpstreamName(
            _PIPELINES + path, f"{name}._sync_pipeline", "refuses PipeFusion on patches at once", ("sync_only",)
        )
        for path, name in (
            ("pipeline_hunyuandit", "xFuserHunyuanDiTPipeline"),
            ("pipeline_stable_diffusion_3", "xFuserStableDiffusion3Pipeline"),
        )
    ),
    UpstreamName(
        "xfuser.core.distributed.group_coordinator",
        "PipelineGroupCoordinator._communicate_shapes",
        "sends without waiting on gloo",
        ("tensor_send_to_next", "recv_prev"),
    ),
    *(
        UpstreamName(
            "xfuser.core.distributed.group_coordinator",
            f"PipelineGroupCoordinator.{name}",
            "keeps what it sends on gloo",
        )
        for name in ("_pipeline_isend", "_pipeline_isend_skip", "destroy")
    ),
    UpstreamName(_ARGS, "xFuserArgs.pipefusion_parallel_degree", "refused together with Ulysses"),
    UpstreamName("xfuser.core.distributed", "get_classifier_free_guidance_rank", "masks of this rank's half"),
    UpstreamName("xfuser.core.distributed", "get_classifier_free_guidance_world_size", "masks of this rank's half"),
)


def broken_names() -> dict[str, str]:
    """Names that the installed xfuser does not have any more, with what is wrong."""
    found = ((f"{name.module}.{name.path}", name.problem()) for name in RELIED_ON)
    return {name: problem for name, problem in found if problem is not None}
