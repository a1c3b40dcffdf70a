"""Tiny text encoders and tokenizers that diffusers' tests name on the hub, made here: nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.families import text, video_text
from tests.support.hub import snapshot

__all__ = ["TARGETS", "write_stand_ins"]

TARGETS = [
    "flux",
    "flux2",
    "controlnet_flux",
    "stable_diffusion_3",
    "controlnet_sd3",
    "qwenimage",
    "z_image",
    "chroma",
    "pixart_alpha",
    "pixart_sigma",
    "hunyuandit",
    "aura_flow",
    "lumina2",
    "cogvideo",
    "cogview4",
    "wan",
    "ltx",
    "ltx2",
    "hunyuan_video",
    "hunyuan_video1_5",
    "mochi",
    "skyreels_v2",
]
"""Families that docs/diffusers.md names."""


def write_stand_ins(root: Path) -> Path:
    """Make a cache of the hub with them.

    Args:
        root: An empty folder.

    Returns:
        The folder, for ``HF_HUB_CACHE``.
    """
    encoders: dict[str, tuple[Any, ...]] = {
        "hf-internal-testing/tiny-random-t5": text.t5(),
        "hf-internal-testing/tiny-random-umt5": video_text.make_umt5(),
        "hf-internal-testing/tiny-random-clip": text.clip(),
        "hf-internal-testing/tiny-random-BertModel": text.bert(),
        "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration": text.qwen2_5_vl(),
        "finetrainers/dummy-hunyaunvideo": video_text.make_llama(),
    }
    for model, parts in encoders.items():
        folder = snapshot(root, model)
        for part in parts:
            part.save_pretrained(folder)
        if model.startswith("finetrainers"):
            parts[0].save_pretrained(folder / "tokenizer")
    return root
