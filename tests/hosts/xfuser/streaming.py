"""On the worker ranks: a video that causal Wan makes chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosts.xfuser.generation import Case, engine
from tests.hosts.xfuser.jobs import initialize_groups
from tests.support.families.wan import causal_wan_inputs, make_causal_wan
from tokenring_xdit.attention import bytes_sent


@dataclass(frozen=True)
class Streamed:
    """How it went on one rank.

    Attributes:
        latents: What is decoded, ``[B, C, T, H, W]``.
        stored: How many keys this rank held of a layer after each call of the first transformer.
        sent: What this rank sent for attention in each of them.
    """

    latents: Tensor
    stored: list[int]
    sent: list[int]


@torch.no_grad()
def stream(ranks: int, inputs: Mapping[str, Any], ulysses: int = 1, padding_seen: bool = False) -> Streamed:
    """A video of all ranks, or, of one, that of unmodified upstream.

    Args:
        ranks: TokenRing degree.
        inputs: Options of the call.
        ulysses: Ulysses degree.
        padding_seen: Forget which keys are padding, which is wrong.
    """
    with pytest.MonkeyPatch.context() as patch, engine(Case("causal-wan", tokenring=ranks, ulysses=ulysses)) as config:
        from xfuser.core.distributed import initialize_runtime_state
        from yunchang.globals import PROCESS_GROUP

        from tokenring_xdit.hosts.xfuser.families.causal_wan import repairs

        if padding_seen:
            patch.setattr(repairs, "key_layout", lambda layout: nullcontext())

        initialize_groups(config)
        pipe = make_causal_wan()
        initialize_runtime_state(pipe, config)
        latents: list[Tensor] = []
        decode = pipe.vae.decode

        def keep(z: Tensor, **options: Any) -> Any:
            latents.append(z.clone())
            return decode(z, **options)

        pipe.vae.decode = keep
        stored, sent = [], []

        def before(*_: Any) -> None:
            sent.append(bytes_sent(PROCESS_GROUP.RING_PG) if ranks > 1 else 0)

        def after(model: Any, args: Any, kwargs: Any, output: Any) -> None:
            stored.append(kwargs["attention_kwargs"]["kv_cache"][0]["k"].shape[1])
            sent[-1] = bytes_sent(PROCESS_GROUP.RING_PG) - sent[-1] if ranks > 1 else 0

        pipe.transformer.register_forward_pre_hook(before)
        pipe.transformer.register_forward_hook(after, with_kwargs=True)
        pipe(**causal_wan_inputs(**inputs))
        return Streamed(latents[0], stored, sent)


def refusals() -> dict[str, str]:
    """What is said to what was not compared."""
    from tokenring_xdit.errors import TokenRingError

    said = {}
    for name, inputs, degrees in (
        ("too long", {"sliding_window_num_frames": 4}, (4, 1)),
        ("heads", {}, (2, 2)),
    ):
        try:
            stream(degrees[0], inputs, ulysses=degrees[1])
        except TokenRingError as error:
            said[name] = str(error)
    return said


def runner() -> tuple[str, str]:
    """What the `xdit` command makes of the model over two ranks, and what it says to a flag that was not compared."""
    from tokenring_xdit.errors import UnsupportedError
    from tokenring_xdit.hosts.xfuser import register

    register()
    from xfuser import xFuserArgs
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

    args = xFuserArgs(model="CausalWan", task="t2v")
    args.tokenring_degree = 2
    accepted = type(MODEL_REGISTRY["CausalWan"](args)).__name__
    args.use_torch_compile = True
    try:
        MODEL_REGISTRY["CausalWan"](args)
    except UnsupportedError as error:
        return accepted, str(error)
    return accepted, ""
