"""What xfuser 0.7.0 gets wrong for Z-Image."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.layout import KeyLayout, cut, key_layout, padding, set_layout
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    replace_forward,
    replace_method,
    sequence_parallel_ranks,
    show_parameters,
    wanted,
)

__all__ = ["HOOKS"]


def build_the_configured_model(z_image: Any) -> None:
    """Let ``from_config`` and ``from_pretrained`` see the model's parameters.

    xfuser 0.7.0: ``xFuserZImageTransformer2DWrapper.__init__`` takes ``**kwargs``, from which diffusers
    reads that the model has no parameters: the config is dropped and the default of 6 billion built.
    """
    wrapper, parent = z_image.xFuserZImageTransformer2DWrapper, z_image.ZImageTransformer2DModel
    show_parameters(wrapper, parent, author=build_the_configured_model)


def leave_padding_and_masked_tokens_out(z_image: Any) -> None:
    """Keep padding and masked tokens out of the keys, in the refiners and in the joint blocks.

    xfuser 0.7.0: the wrapper cuts an attention mask along with each of its three sequences, and its
    attention processor ignores it (found by reading; a batch of prompts of different length shows it).
    The masks say how long the sequences are, which the shapes of the arguments tell as well.
    """

    def make_forward(original: Any) -> Any:
        signature = inspect.signature(original)

        def forward(self: Any, *args: Any, joint_attention_kwargs: None = None, **kwargs: Any) -> Any:
            if wanted():
                given = signature.bind(self, *args, **kwargs)
                given.apply_defaults()
                self._tokenring_lengths = _lengths(given.arguments, z_image.SEQ_MULTI_OF)
            with key_layout(None):  # set anew before each kind of block
                return original(self, *args, **kwargs)

        return forward

    def make_cut(original: Any) -> Any:
        def chunk_and_pad_sequence(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            # The mask of a sequence is cut right before the blocks that work on that sequence.
            if wanted() and x.dtype == torch.bool:
                set_layout(_layout(sequence_parallel_ranks(), self._tokenring_lengths.pop(0)))
            return original(self, x, *args, **kwargs)

        # torch.compile breaks its graph here, instead of setting the last of three layouts for all blocks.
        return torch.compiler.disable(chunk_and_pad_sequence)  # type: ignore[no-untyped-call]

    wrapper = z_image.xFuserZImageTransformer2DWrapper
    replace_forward(wrapper, make_forward)
    replace_method(wrapper, "_chunk_and_pad_sequence", make_cut)


@outside_graphs
def _lengths(arguments: dict[str, Any], multiple: int) -> list[tuple[int, ...]]:
    """Tokens of each item of the batch: of its picture, its text, and both together, with the learned padding."""
    patch, frames = arguments["patch_size"], arguments["f_patch_size"]
    pictures, texts = (_part(arguments[name]) for name in ("x", "cap_feats"))
    each = [t // frames * (h // patch) * (w // patch) for t, h, w in (picture.shape[1:] for picture in pictures)]
    found = [tuple(n + padding(n, multiple) for n in lengths) for lengths in (each, map(len, texts))]
    return [*found, tuple(map(sum, zip(*found, strict=True)))]


def _part(items: list[Tensor]) -> list[Tensor]:
    """Those that this rank's half of classifier-free guidance works on."""
    from xfuser.core.distributed import (
        get_classifier_free_guidance_rank,
        get_classifier_free_guidance_world_size,
    )

    size = len(items) // int(get_classifier_free_guidance_world_size())
    first = int(get_classifier_free_guidance_rank()) * size
    return items[first : first + size]


@lru_cache(maxsize=32)
def _layout(ranks: int, lengths: tuple[int, ...]) -> KeyLayout:
    """Sequences that are padded to the longest, and cut."""
    each = torch.tensor(lengths)[:, None]
    return KeyLayout(cut(torch.arange(max(lengths)) < each, ranks))


def _transformer(z_image: Any) -> None:
    build_the_configured_model(z_image)
    leave_padding_and_masked_tokens_out(z_image)


HOOKS = {TRANSFORMERS + "transformer_z_image": _transformer}
