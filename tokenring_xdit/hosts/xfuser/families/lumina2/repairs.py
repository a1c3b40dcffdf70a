"""Lumina-Image 2.0, which xfuser 0.7.0 refuses to shard over a ring for its padded sequences."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout
from tokenring_xdit.hosts.running import decided_on_the_host, may_be_recorded
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, replace_method, sequence_parallel_ranks

__all__ = ["HOOKS", "real_tokens"]


def let_masked_sequences_round_the_ring(lumina2: Any) -> None:
    """Tell each rank which of its own keys are real, and lift the refusal that stands in for that.

    xfuser 0.7.0: ``xFuserLumina2Transformer2DWrapper`` raises for ring degrees above one, as a mask of
    the whole sequence is of no use to a ring whose keys travel. TokenRing does not send them. The
    mask itself, and the kernel without a log-sum-exp that is asked for because of it, are dropped.
    """

    def make_size(original: Any) -> Any:
        def get_ring_parallel_world_size() -> int:
            from xfuser.core.distributed.runtime_state import runtime_state_is_initialized

            chosen = runtime_state_is_initialized() and current_choice() is not None
            return 1 if chosen else int(original())

        return get_ring_parallel_world_size

    def make_usp(original: Any) -> Any:
        def usp(*args: Any, backend: Any = None, attention_kwargs: Any = None, **kwargs: Any) -> Any:
            if current_choice() is not None:
                backend = attention_kwargs = None
            return original(*args, backend=backend, attention_kwargs=attention_kwargs, **kwargs)

        return usp

    def make_forward(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            encoder_attention_mask: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            inputs = (hidden_states, timestep, encoder_hidden_states, encoder_attention_mask)
            if current_choice() is None:
                return original(self, *inputs, *args, **kwargs)
            with key_layout(_layout(self.module, hidden_states, encoder_attention_mask)):
                return original(self, *inputs, *args, **kwargs)

        return forward

    replace_method(lumina2, "get_ring_parallel_world_size", make_size)
    replace_method(lumina2, "USP", make_usp)
    replace_forward(lumina2.xFuserLumina2Transformer2DWrapper, make_forward)


def keep_masked_text(lumina2: Any) -> None:
    """Keep text that a mask hides in calls that may be recorded, hidden from attention.

    diffusers 0.42: ``Lumina2RotaryPosEmbed.forward`` has the host read how long texts are, and the model puts pictures
    right behind them, so that shapes depend on what is in a mask, which a CUDA graph cannot have. There, every item has
    all of its text, and its picture behind that; what tokens have for positions is as before, so attention among those
    that count is the same. Tables of positions stay on the device, as copies from the host cannot be recorded either.
    """

    def make(original: Any) -> Any:
        def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor) -> Any:
            if not _whole():
                decided_on_the_host("lengths of texts, which shapes depend on, are read from a mask in each call")
                return original(self, hidden_states, attention_mask)
            return _embedded(self, hidden_states, attention_mask)

        return forward

    diffusers = sys.modules[lumina2.Lumina2Transformer2DModel.__module__]
    replace_method(diffusers.Lumina2RotaryPosEmbed, "forward", make)


def _whole() -> bool:
    """Whether the running call keeps text that its mask hides."""
    return may_be_recorded() and current_choice() is not None


def _embedded(rope: Any, latents: Tensor, text_mask: Tensor) -> tuple[Any, ...]:
    """What diffusers' ``Lumina2RotaryPosEmbed`` returns, of whole texts.

    Args:
        rope: The module.
        latents: ``[B, C, H, W]``.
        text_mask: ``[B, T]``, which tokens are real, those first.
    """
    batch, channels, *sides = latents.shape
    rows, columns = (side // rope.patch_size for side in sides)
    text, image, device = text_mask.shape[1], rows * columns, latents.device
    real = _real_text(text_mask)
    places = torch.arange(text, device=device)
    of_text = (torch.where(real, places, 0), *(torch.zeros_like(real, dtype=torch.long) for _ in range(2)))
    of_image = (
        real.sum(dim=1, keepdim=True).expand(batch, image),
        *(
            each.flatten().expand(batch, image)
            for each in torch.meshgrid(*(torch.arange(size, device=device) for size in (rows, columns)), indexing="ij")
        ),
    )
    tables = _tables(rope, device)
    texts, images = (
        torch.cat([table[ids] for table, ids in zip(tables, each, strict=True)], dim=-1) for each in (of_text, of_image)
    )
    patches = latents.view(batch, channels, rows, rope.patch_size, columns, rope.patch_size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches, texts, images, torch.cat([texts, images], dim=1), [text] * batch, [text + image] * batch


def _tables(rope: Any, device: torch.device) -> tuple[Tensor, ...]:
    """What each axis has at each of its positions, on a device, where it stays."""
    kept: dict[torch.device, tuple[Tensor, ...]] = vars(rope).setdefault("_tokenring_tables", {})
    if device not in kept:
        kept[device] = tuple(table.to(device) for table in rope.freqs_cis)
    return kept[device]


def _real_text(mask: Tensor) -> Tensor:
    """Which tokens of each text the model takes: as many of the first as are not hidden, ``[B, T]``."""
    return torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)


def real_tokens(model: Any, arguments: Mapping[str, Any]) -> Tensor | None:
    """Which tokens of the sequences of whole texts are real, ``[B, S]``; ``None`` where hidden text was dropped.

    Args:
        model: Diffusers' transformer.
        arguments: Of its call, by name.
    """
    if not _whole():
        return None
    text = _real_text(arguments["encoder_attention_mask"])
    return torch.cat([text, text.new_ones(text.shape[0], _image(model, arguments["hidden_states"]))], dim=1)


def _image(model: Any, latents: Tensor) -> int:
    """Tokens of the picture."""
    patch = model.config.patch_size
    return int(latents.shape[-2] // patch * (latents.shape[-1] // patch))


@outside_graphs
def _layout(model: Any, latents: Tensor, text_mask: Tensor) -> KeyLayout:
    real = real_tokens(model, {"hidden_states": latents, "encoder_attention_mask": text_mask})
    if real is not None:
        return KeyLayout(cut(real, sequence_parallel_ranks()), computed=True)
    lengths = tuple(text_mask.sum(dim=1).tolist())
    return _layout_of_lengths(sequence_parallel_ranks(), lengths, _image(model, latents))


@functools.lru_cache(maxsize=32)
def _layout_of_lengths(ranks: int, texts: tuple[int, ...], image: int) -> KeyLayout:
    """Each item's text, its image right behind, and padding to the longest item's length."""
    lengths = torch.tensor(texts)[:, None] + image
    return KeyLayout(cut(torch.arange(int(lengths.max())) < lengths, ranks))


def _transformer(lumina2: Any) -> None:
    let_masked_sequences_round_the_ring(lumina2)
    keep_masked_text(lumina2)


HOOKS = {TRANSFORMERS + "transformer_lumina2": _transformer}
