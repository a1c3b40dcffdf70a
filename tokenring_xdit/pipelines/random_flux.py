"""A Flux pipeline of any width and depth with random weights: what a step takes, without a download."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import shown
from tokenring_xdit.pipelines.flux import FluxModel
from tokenring_xdit.pipelines.model import RANDOM_FLUX
from tokenring_xdit.sizes import PictureSize
from tokenring_xdit.spec import Grammar, Whole, written

__all__ = ["RandomFlux", "is_random"]

_LATENT_CHANNELS = 16  # as in FLUX.1
_TEXT_WIDTH = 256
_POOLED_WIDTH = 64
_MOST = 1 << 20  # of anything: far more than a model of any size has


@dataclass(frozen=True)
class RandomFlux:
    """A FLUX.1 transformer with its scheduler and a small VAE; in place of text encoders prompts are dice.

    Attributes:
        double: Blocks of two streams, each of which calls attention once. FLUX.1 has 19.
        single: Blocks of one stream. FLUX.1 has 38.
        heads: Attention heads. FLUX.1 has 24.
        head_dim: Width of a head. FLUX.1 has 128.
        text_tokens: Text tokens. FLUX.1 has up to 512.
    """

    double: int = 1
    single: int = 2
    heads: int = 8
    head_dim: int = 64
    text_tokens: int = 256

    @classmethod
    def parse(cls, text: str) -> RandomFlux:
        """Read ``random-flux`` or ``random-flux:heads=24,head_dim=128``.

        Raises:
            ConfigurationError: It is neither, or no such model can be.
        """
        if not is_random(text):
            raise ConfigurationError(f"{shown(text)} is no {RANDOM_FLUX}")
        options = {field.name: Whole(_MOST) for field in fields(cls)}
        _, said = Grammar("model", {RANDOM_FLUX: options}, ConfigurationError).read(text)
        model = cls(**{name: int(value) for name, value in said.items()})
        if model.head_dim % 8:
            raise ConfigurationError(f"model {shown(text)}: head_dim has to be a multiple of 8 for rotary positions")
        return model

    def __str__(self) -> str:
        return written(RANDOM_FLUX, [(field.name, getattr(self, field.name)) for field in fields(self)])

    def model(self) -> FluxModel:
        """What decides which degrees and sizes fit it: 16 pixels on a side of a token, as in FLUX.1."""
        return _RandomModel(
            str(self),
            heads=self.heads,
            head_dim=self.head_dim,
            pixels_per_token=16,
            text_tokens=self.text_tokens,
            default_size=PictureSize(1024, 1024),
            channels=4 * _LATENT_CHANNELS,
        )

    def make(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
        """The diffusers pipeline, the same wherever it is made.

        Args:
            dtype: Dtype of the weights.
            device: Where they go.
            seed: Seed of the weights.
        """
        from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

        rotary = 2 * (7 * self.head_dim // 32)  # the shares of FLUX.1: 16, 56, 56 of 128
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            transformer = FluxTransformer2DModel(
                in_channels=4 * _LATENT_CHANNELS,
                num_layers=self.double,
                num_single_layers=self.single,
                attention_head_dim=self.head_dim,
                num_attention_heads=self.heads,
                joint_attention_dim=_TEXT_WIDTH,
                pooled_projection_dim=_POOLED_WIDTH,
                guidance_embeds=True,
                axes_dims_rope=(self.head_dim - 2 * rotary, rotary, rotary),
            )
            _draw_weights(transformer)
            vae = AutoencoderKL(
                block_out_channels=(4,) * 4,  # three halvings; the blocks of tokens halve once more
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=_LATENT_CHANNELS,
                norm_num_groups=2,
                shift_factor=0.0,
            )
        pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae.eval(),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=transformer.eval(),
        )
        pipe.encode_prompt = self._encoder(pipe)
        return pipe.to(device, dtype)

    def _encoder(self, pipe: Any) -> Any:
        """In place of the pipeline's own: random text that hangs on the prompt, the same wherever it is made."""
        given = pipe.encode_prompt

        def encode_prompt(prompt: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("prompt_embeds") is None:
                texts = [prompt] if isinstance(prompt, str) else prompt
                embeds, pooled = map(torch.cat, zip(*map(self._text, texts), strict=True))
                place = {"device": pipe.transformer.device, "dtype": pipe.transformer.dtype}
                kwargs |= {"prompt_embeds": embeds.to(**place), "pooled_prompt_embeds": pooled.to(**place)}
            return given(prompt, *args, **kwargs)

        return encode_prompt

    def _text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """``[1, T, C]`` and pooled ``[1, C]``."""
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        sizes = ((1, self.text_tokens, _TEXT_WIDTH), (1, _POOLED_WIDTH))
        embeds, pooled = (torch.randn(size, generator=generator) for size in sizes)
        return embeds, pooled


@dataclass(frozen=True)
class _RandomModel(FluxModel):
    def scheduler_config(self) -> dict[str, Any]:
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}

    def load(
        self, dtype: str, device: torch.device, kind: type | None = None, parts: Mapping[str, Any] | None = None
    ) -> Any:
        pipe = RandomFlux.parse(self.name).make(torch_dtype(dtype), device)
        if kind in {None, type(pipe)}:
            return pipe
        own = {name: part for name, part in pipe.components.items() if name in _parts(kind)}
        other: Any = kind(**own, **(parts or {})).to(device)
        other.encode_prompt = pipe.encode_prompt
        return other


def _parts(kind: Any) -> set[str]:
    """What a class of pipelines is made of."""
    return set(inspect.signature(kind.__init__).parameters)


def is_random(name: str) -> bool:
    """Whether a name is that of a model with random weights."""
    return name.partition(":")[0] == RANDOM_FLUX


@torch.no_grad()
def _draw_weights(module: torch.nn.Module) -> None:
    """Weights with which every layer keeps the scale of its input, so that a mistake in attention shows in latents."""
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
