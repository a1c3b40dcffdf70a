"""What xfuser 0.7.0 gets wrong with schedulers that add noise at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.integrations.xfuser.repairs.common import replace_method, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def draw_noise_for_the_whole_picture(scheduling: Any) -> None:
    """Draw the noise that one process would draw, and take this rank's rows of it.

    xfuser 0.7.0: its pipelines step the scheduler on each rank's rows of the latents, and diffusers
    draws noise of that shape: all ranks add the same noise to different rows (HunyuanDiT with DDPM,
    CogVideoX with its DPM scheduler; up to 1.2 off, the output's scale being 1).
    """

    def make(original: Any) -> Any:
        def randn_tensor(shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Tensor:
            parts = _rows(tuple(shape))
            if parts is None:
                drawn: Tensor = original(shape, *args, **kwargs)
                return drawn
            rows = shape[-2] * sequence_parallel_ranks()
            whole = original((*shape[:-2], rows, shape[-1]), *args, **kwargs)
            return torch.cat([whole[..., start:end, :] for start, end in parts], dim=-2)

        return randn_tensor

    replace_method(scheduling, "randn_tensor", make)


def _rows(shape: tuple[int, ...]) -> list[list[int]] | None:
    """Rows ``[start, end)`` of the whole latents that a sample of this shape is made of; ``None`` if it is whole."""
    from xfuser.core.distributed import runtime_state

    state = runtime_state._RUNTIME
    parts = getattr(state, "pp_patches_start_end_idx_global", None)
    if parts is None or len(shape) < 4 or state.patch_mode or not wanted() or sequence_parallel_ranks() == 1:
        return None
    own: list[list[int]] = parts
    return own if sum(end - start for start, end in own) == shape[-2] else None


HOOKS = {
    f"diffusers.schedulers.{name}": draw_noise_for_the_whole_picture
    for name in (
        "scheduling_ddim",
        "scheduling_ddpm",
        "scheduling_dpm_cogvideox",
        "scheduling_dpmsolver_multistep",
    )
}
