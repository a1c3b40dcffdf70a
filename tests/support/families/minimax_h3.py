"""A small transformer of MiniMax-H3, and sequences of text, sound and video packed for it."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.families import text
from tests.support.families.peaky import peaky

TEXT_DIM, SOUND_DIM, VIDEO_DIM = 24, 8, 16


def make_minimax_h3(*, heads: int = 4, layers: int = 2) -> Any:
    """A ``MiniMaxH3Transformer3DModel``; its heads are wider together than its tokens, as in the released one.

    Args:
        heads: Attention heads of 16 channels.
        layers: Layers, beside one that refines text.
    """
    from diffusers import MiniMaxH3Transformer3DModel

    model = MiniMaxH3Transformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        hidden_size=12 * heads,
        num_layers=layers,
        num_refiner_layers=1,
        ffn_dim=32 * heads,
        in_channels=VIDEO_DIM // 4,
        audio_in_channels=SOUND_DIM,
        text_dim=TEXT_DIM,
        freq_dim=32,
        time_embed_hidden_dim=48,
        time_embed_dim=32,
        rope_freq_dim=2,
    )
    return peaky(text.randomise_weights(model, seed=151))


def minimax_h3_inputs(
    *, words: int = 13, sound: int = 20, grid: tuple[int, int, int] = (3, 5, 8), references: int = 0
) -> dict[str, Any]:
    """Arguments of a call of the transformer: text, then pictures to refer to, then sound, then video.

    Args:
        words: Tokens of text.
        sound: Tokens of sound.
        grid: Frames, rows and columns of the video.
        references: Tokens of pictures that are given, which have the time zero.
    """
    video = grid[0] * grid[1] * grid[2]
    places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), dim=-1).view(-1, 3)
    line = [torch.arange(length)[:, None].expand(-1, 3) for length in (words, references, sound)]
    rows = torch.arange(words + references + sound + video)
    of_text, of_references, of_sound, of_video = rows.split([words, references, sound, video])
    tags = torch.cat([torch.full((n,), tag) for n, tag in ((words, 1), (references, 0), (sound, 2), (video, 0))])
    times = torch.cat([torch.full((n,), at) for n, at in ((words, 2), (references, 2), (sound, 1), (video, 0))])

    def drawn(tokens: int, width: int, seed: int) -> torch.Tensor:
        return text.drawn(tokens, width, seed=seed)

    return {
        "hidden_states": drawn(references + video, VIDEO_DIM, 152),
        "audio_hidden_states": drawn(sound, SOUND_DIM, 153),
        "encoder_hidden_states": drawn(words, TEXT_DIM, 154),
        "timestep": torch.tensor([0.7, 0.4, 0.0]),
        "timestep_indices": times,
        "token_tags": tags,
        "position_ids": torch.cat([*line, places + torch.tensor([words, 0, 0])]),
        "video_indices": torch.cat([of_references, of_video]),
        "audio_indices": of_sound,
        "text_indices": of_text,
        "return_dict": False,
    }
