"""What diffusers' own pipeline makes of the embedded model, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.flux import FluxModel

__all__ = ["made_alone"]


def made_alone(asked: Iterable[tuple[str, int]], *, steps: int, side: int | None = None, **options: Any) -> list[Any]:
    """Make pictures with the unmodified pipeline, one at a time.

    Args:
        asked: Prompts and seeds.
        steps: How many.
        side: Pixels of width and height; ``None`` for the model's own size.
        **options: Further arguments of the pipeline.
    """
    from diffusers import FluxPipeline  # takes seconds, and few of the tests that import this make pictures

    pipe, model = FluxPipeline.from_pretrained(MODEL_PATH), FluxModel.find(str(MODEL_PATH))
    pipe.set_progress_bar_config(disable=True)
    return [
        pipe(
            prompt,
            width=side or model.default_size.width,
            height=side or model.default_size.height,
            num_inference_steps=steps,
            max_sequence_length=model.text_tokens,
            generator=torch.Generator().manual_seed(seed),
            **options,
        ).images[0]
        for prompt, seed in asked
    ]
