"""A host library of a few lines, written against the protocol alone, and jobs for ranks that use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

from tests.support.reference import relative_error
from tokenring_xdit.attention import token_ring_attention
from tokenring_xdit.errors import TokenRingError, UnsupportedError
from tokenring_xdit.hosts.base import PipelineHost
from tokenring_xdit.hosts.calls import Output, spread_over_ranks
from tokenring_xdit.hosts.layout import active_layout, key_layout, padding, sequence_layout
from tokenring_xdit.hosts.weights import Weights
from tokenring_xdit.parallel import ParallelDims

HEADS, WIDTH = 3, 48


class Attention(nn.Module):
    """A model: one attention over ``[B, S, C]``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        nn.init.normal_(self.project.weight, std=0.7)  # so that attention is peaky

    def forward(self, x: Tensor) -> Tensor:
        """Compute attention over the tokens at hand."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.project(x).chunk(3, dim=-1))
        return self.attend(q, k, v).transpose(1, 2).flatten(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax in fp64, ``[B, H, S, D]``."""
        weights = (q.double() @ k.double().transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=3)
        return (weights @ v.double()).to(q.dtype)


class APipeline:
    """What users of the library call."""

    def __init__(self, seed: int = 0) -> None:
        self.model: Any = Attention(seed)

    def __call__(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Run the model."""
        out: Tensor = self.model(x * scale)
        return out

    def save_pretrained(self, folder: Path) -> None:
        """Leave a file, which only one may do."""
        (folder / "saved").touch(exist_ok=False)


class Sharded(Attention):
    """The model, with this rank's tokens and the keys of all."""

    def forward(self, x: Tensor) -> Tensor:
        """Take whole tokens, compute on a part of them, and give the whole back."""
        rank, ranks, tokens = dist.get_rank(), dist.get_world_size(), x.shape[1]
        own = pad(x, (0, 0, 0, padding(tokens, ranks))).chunk(ranks, dim=1)[rank]
        with key_layout(sequence_layout(ranks, tokens)):
            out = super().forward(own).contiguous()
        parts = [torch.empty_like(out) for _ in range(ranks)]
        dist.all_gather(parts, out)
        return torch.cat(parts, dim=1)[:, :tokens]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """TokenRing over the parts of all ranks."""
        layout = active_layout()
        assert layout is not None
        out, _ = token_ring_attention(q, k, v, key_mask=layout.own(dist.get_rank(), 1), cache_key=layout.key)
        return out


class Kept:
    """What the host keeps with the model."""

    def __init__(self, model: Attention) -> None:
        self._weights = Weights(model)

    def check(self, model: Any) -> None:
        """Refuse training."""
        if model.training:
            raise UnsupportedError("the model is in training mode: call model.eval()")

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Nothing is left out inside."""
        yield

    def weights(self) -> dict[str, str]:
        """Of all of it."""
        return self._weights.summary()


class AHost:
    """The library, as it was asked for."""

    def __init__(self, dims: ParallelDims) -> None:
        self._dims = dims

    @property
    def settings(self) -> Mapping[str, str]:
        """Degrees."""
        return {"degrees": str(self._dims)}

    def refuse(self, pipe: Any) -> None:
        """Refuse other classes."""
        if type(pipe).__name__ != "APipeline":
            raise UnsupportedError(f"{type(pipe).__name__} was not compared: use APipeline")

    def spread(self, pipe: Any) -> None:
        """Change the class of the model in place."""
        pipe.model.__class__ = Sharded
        pipe.model.kept = Kept(pipe.model)

    def models(self, pipe: Any) -> Mapping[str, Any]:
        """The one model."""
        return {"model": pipe.model}

    def shard_of(self, name: str, model: Any) -> Kept:
        """What it carries with it."""
        kept: Kept = model.kept
        return kept

    def activate(self, pipe: Any) -> None:
        """Nothing is to be put in its place."""

    def device(self, pipe: Any) -> torch.device:
        """Of its weights."""
        device: torch.device = pipe.model.project.weight.device
        return device


def spread(pipe: Any, output: Output = Output.EVERY_RANK) -> Any:
    """Spread over all ranks."""

    def asked() -> PipelineHost:
        return AHost(ParallelDims(tokenring=dist.get_world_size()))

    return spread_over_ranks(pipe, asked, output)


@torch.no_grad()
def called(output: str) -> float | None:
    """Difference to one process, relative to the output's scale; ``None`` where this rank gets nothing."""
    x = torch.randn(2, 13, WIDTH, generator=torch.Generator().manual_seed(1))
    pipe = APipeline()
    pipe.model.eval()
    expected = pipe(x, scale=0.8)
    actual = spread(pipe, Output[output])(x, scale=0.8)
    return None if actual is None else relative_error(actual, expected)


@torch.no_grad()
def refusals(folder: Path) -> dict[str, str]:
    """What this rank is told where something differs between ranks, or was done to the model, and who saves."""
    rank, x, said = dist.get_rank(), torch.zeros(1, 4, WIDTH), {}

    def note(name: str, call: Any) -> None:
        try:
            call()
        except TokenRingError as error:
            said[name] = f"{type(error).__name__}: {error}"

    pipe = APipeline()
    pipe.model.eval()
    spread(pipe)
    note("arguments", lambda: pipe(x, scale=1.0 + rank))
    note("signature", lambda: pipe(x, size=1))
    note("again", lambda: spread(pipe))
    pipe.save_pretrained(folder)
    if rank == 1:
        pipe.model.train()
    note("one rank", lambda: pipe(x))
    other = APipeline(seed=rank)
    other.model.eval()
    spread(other)
    note("weights", lambda: other(x))
    note("class", lambda: spread(object() if rank == 1 else APipeline()))
    return said
