"""A small ConsisID pipeline, which is given a face as embeddings."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline

from tests.support.families.cogvideox import cogvideox_inputs, make_cogvideox
from tests.support.families.pictures import two_colours
from tests.support.families.text import drawn
from tests.support.families.video_text import TEXT_DIM, randomise_weights

FACE_DIM, SCALES = 16, 5


def make_consisid(*, heads: int = 4) -> DiffusionPipeline:
    """A ``ConsisIDPipeline``.

    Args:
        heads: Attention heads of 16 channels.
    """
    from diffusers import ConsisIDPipeline, ConsisIDTransformer3DModel

    parts = make_cogvideox().components
    transformer = ConsisIDTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=32,
        text_embed_dim=TEXT_DIM,
        num_layers=2,
        sample_width=12,
        sample_height=16,
        sample_frames=9,
        max_text_seq_length=32,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=FACE_DIM,
        LFE_vit_dim=FACE_DIM,
        LFE_depth=SCALES,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=4,
        LFE_output_dim=16,
        LFE_num_scale=SCALES,
    ).eval()
    randomise_weights(transformer, seed=161)
    pipe = ConsisIDPipeline(**{**parts, "transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def consisid_inputs(**options: Any) -> dict[str, Any]:
    """As :func:`cogvideox_inputs`, with a picture for each prompt and a face for all of them."""
    found = cogvideox_inputs(**options)
    picture = two_colours(found["height"], found["width"])
    return {
        **found,
        "image": [picture] * len(found["prompt"]),
        "id_cond": torch.randn(1, FACE_DIM, generator=torch.Generator().manual_seed(162)),
        "id_vit_hidden": [drawn(9, FACE_DIM, seed=163 + scale) for scale in range(SCALES)],
    }
