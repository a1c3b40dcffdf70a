"""Tiny text encoders and tokenizers that diffusers' tests name on the hub, made here: nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import MistralConfig, Qwen2VLConfig

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


_MAKERS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "hf-internal-testing/tiny-random-t5": text.t5,
    "hf-internal-testing/tiny-random-umt5": video_text.make_umt5,
    "hf-internal-testing/tiny-random-clip": text.clip,
    "hf-internal-testing/tiny-random-BertModel": text.bert,
    "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration": lambda: (
        *text.qwen2_vl_processor(),
        Qwen2VLConfig(),  # by which transformers finds the processor's tokenizer
    ),
    "hf-internal-testing/Mistral-Small-3.1-24B-Instruct-2503-only-processor": lambda: (
        text.mistral3()[0],
        MistralConfig(),  # of which transformers knows no other processor than the tokenizer
    ),
    "hf-internal-testing/tiny-gemma3": video_text.make_gemma3,
    "hf-internal-testing/dummy-gemma": lambda: video_text.make_gemma3()[:1],
    "finetrainers/dummy-hunyaunvideo": video_text.make_llama,
}


def write_stand_ins(root: Path, tests: Sequence[Path]) -> None:
    """Make a cache of the hub with those that some tests name.

    Args:
        root: The folder, which ``HF_HUB_CACHE`` has to name.
        tests: Files or folders of tests.
    """
    files = [file for test in tests for file in ([test] if test.is_file() else test.rglob("*.py"))]
    texts = "".join(file.read_text(encoding="utf-8") for file in files)
    for model, make in _MAKERS.items():
        if model not in texts:
            continue
        folder = snapshot(root, model)
        parts = make()
        for part in parts:
            part.save_pretrained(folder)
        if model == "finetrainers/dummy-hunyaunvideo":
            parts[0].save_pretrained(folder / "tokenizer")
