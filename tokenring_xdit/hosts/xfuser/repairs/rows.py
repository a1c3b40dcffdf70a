"""Rows of latents that do not divide by the ranks, which xfuser 0.7.0 refuses in its own pipelines."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.choice import choice_of
from tokenring_xdit.hosts.xfuser.repairs.common import pipeline_name, repair_all, replace_method
from tokenring_xdit.hosts.xfuser.supported import own_pipeline

__all__ = ["HOOKS"]


def say_which_heights_work(runtime_state: Any) -> None:
    """Say what to do about a height that xfuser cannot cut by rows.

    xfuser 0.7.0 raises a ``ValueError`` that names neither the height nor one that works.
    """

    def make(original: Any) -> Any:
        def calc_patches_metadata(self: Any) -> None:
            try:
                original(self)
            except ValueError as error:
                if choice_of(self.parallel_config) is None:
                    raise
                ranks, height = self.parallel_config.sp_degree, self.input_config.height
                scale = getattr(self, "vae_scale_factor_spatial", None) or self.vae_scale_factor
                unit = scale * self.backbone_patch_size * ranks
                fitting = " or ".join(str(n * unit) for n in (height // unit, height // unit + 1) if n)
                raise UnsupportedError(
                    f"a height of {height} pixels cannot be cut over {ranks} ranks: xfuser's pipeline cuts this model "
                    f"by rows of tokens, so the height has to be a multiple of {unit}. Use {fitting}, another degree, "
                    "or tokenring_xdit.parallelize, which takes any height"
                ) from error

        return calc_patches_metadata

    state = runtime_state.DiTRuntimeState
    for name in ("_calc_patches_metadata", "_calc_cogvideox_patches_metadata"):
        replace_method(state, name, make)


def cut_by_tokens(runtime_state: Any) -> None:
    """Cut pictures whose rows do not divide by the degree by tokens.

    xfuser 0.7.0: ``_calc_patches_metadata`` raises for them, and does so for the default size of
    1024 pixels too when a caller (its own runner) has not set the size yet.
    """

    def make_check(original: Any) -> Any:
        def check_pipeline_class_name(self: Any, pipeline: Any, config: Any) -> None:
            own = own_pipeline(pipeline_name(pipeline))  # the pipeline is not kept by the state
            self.tokenring_cuts_by_tokens = own is not None and own.any_rows
            original(self, pipeline, config)

        return check_pipeline_class_name

    def make_calc(original: Any) -> Any:
        def calc_patches_metadata(self: Any) -> None:
            self.tokenring_real_tokens = None
            rows = self.input_config.height // self.vae_scale_factor
            if (
                not (choice_of(self.parallel_config) is not None or repair_all())
                or not getattr(self, "tokenring_cuts_by_tokens", False)
                or self.parallel_config.pp_degree > 1  # whose patches are rows
                or rows % self.parallel_config.sp_degree == 0
            ):
                original(self)
                return
            from xfuser.core.distributed import get_sequence_parallel_rank

            columns = self.input_config.width // self.vae_scale_factor
            tokens = rows // self.backbone_patch_size * (columns // self.backbone_patch_size)
            shard = -(-tokens // self.parallel_config.sp_degree)
            start = shard * get_sequence_parallel_rank()
            self.tokenring_real_tokens = tokens
            self.num_pipeline_patch = 1
            self.pp_patches_token_start_idx_local = [0, shard]
            self.pp_patches_token_start_end_idx_global = [[start, start + shard]]
            self.pp_patches_token_num = [shard]

        return calc_patches_metadata

    replace_method(runtime_state.DiTRuntimeState, "_calc_patches_metadata", make_calc)
    replace_method(runtime_state.DiTRuntimeState, "_check_pipeline_class_name", make_check)


def _runtime_state(runtime_state: Any) -> None:
    say_which_heights_work(runtime_state)
    cut_by_tokens(runtime_state)


HOOKS = {"xfuser.core.distributed.runtime_state": _runtime_state}
