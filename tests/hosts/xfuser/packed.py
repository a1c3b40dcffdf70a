"""On the worker ranks: MiniMax-H3 and Cosmos 3, whose sequence holds text, video and sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.hosts.xfuser.generation import Case, engine, error, forget_xfuser, with_wrapped_transformer
from tests.hosts.xfuser.jobs import initialize_groups
from tests.support.families import ALL_FAMILIES
from tests.support.families.minimax_h3 import make_minimax_h3, minimax_h3_inputs
from tests.support.ranks import by_the_first
from tests.support.reference import relative_error
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.hosts.xfuser import parallelize


@torch.no_grad()
def errors(case: Case, *calls: Mapping[str, Any]) -> list[tuple[float, float]]:
    """How far calls of a transformer of all ranks are from diffusers' in one process in fp32.

    Args:
        case: How it is spread, and its dtype.
        *calls: Options of the inputs.

    Returns:
        Of each call: for two steps that follow one another, that of all ranks, and that of one process in this dtype.
    """

    def alone(dtype: torch.dtype) -> list[Tensor]:
        model = make_minimax_h3().to(dtype)
        return [_steps(model, _cast(minimax_h3_inputs(**call), dtype)) for call in calls]

    exact, single = by_the_first(lambda: (alone(torch.float32), alone(case.dtype)))
    with engine(case) as config:
        wrapped = _wrapped(config, case.dtype)
        together = [_steps(wrapped, _cast(minimax_h3_inputs(**call), case.dtype)) for call in calls]
    return [
        (relative_error(ours, true), relative_error(one, true))
        for ours, one, true in zip(together, single, exact, strict=True)
    ]


@torch.no_grad()
def error_with_padding_seen(case: Case) -> float:
    """The same for one call, where padding is taken for real."""
    from tokenring_xdit.hosts.layout import KeyLayout, all_real, cut

    true = by_the_first(lambda: _steps(make_minimax_h3(), minimax_h3_inputs()))
    with pytest.MonkeyPatch.context() as patch, engine(case) as config:
        wrapped = _wrapped(config, case.dtype)
        from tokenring_xdit.hosts.xfuser.families.minimax_h3 import repairs

        def all_seen(tokens: int, multiple: int, ranks: int) -> KeyLayout:
            layout = KeyLayout(cut(all_real(tokens + -tokens % multiple), ranks))
            patch.setattr(layout, "count", lambda: tokens)  # or the call is refused, as the model says another number
            return layout

        patch.setattr(repairs, "_layout", all_seen)
        return relative_error(_steps(wrapped, minimax_h3_inputs()), true)


def cosmos3_with_padding_seen(case: Case) -> float | None:
    """How far Cosmos 3 is from one process where nobody says which keys are padding."""
    from tokenring_xdit.hosts.xfuser.families.cosmos3 import repairs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repairs, "key_layout", lambda layout: nullcontext())
        return error(case)


@torch.no_grad()
def refusals_of_cosmos3() -> dict[str, str]:
    """What is said to sound in a call, and to a model with a norm that xfuser leaves out, before any call."""
    family, calls = ALL_FAMILIES["cosmos3"], []
    pipe = family.make()
    pipe.transformer.register_forward_pre_hook(lambda _, args, given: calls.append(given), with_kwargs=True)
    pipe(**family.inputs(steps=1))
    ranks, norm = dist.get_world_size(), {"qk_norm_for_text": False, "use_und_k_norm_for_gen": True}

    def sound() -> None:
        other = parallelize(family.make(sound_gen=True, sound_dim=8), tokenring_degree=ranks)
        other.transformer(**{**calls[0], "sound_tokens": [torch.zeros(8, 4)]})

    def as_xdit() -> None:
        case = Case("cosmos3", tokenring=ranks, make=norm)
        with engine(case) as config:
            with_wrapped_transformer(family, config, case, {})

    return {
        "sound": _said_to(sound),
        "norm": _said_to(lambda: parallelize(family.make(**norm), tokenring_degree=ranks)),
        "norm, xdit": _said_to(as_xdit),
    }


def _said_to(call: Callable[[], Any]) -> str:
    try:
        call()
    except TokenRingError as error:
        return str(error)
    finally:
        forget_xfuser()
    return ""


def _wrapped(config: Any, dtype: torch.dtype) -> Any:
    """Made as the `xdit` command makes it for references, without a pipeline."""
    from xfuser.core.distributed import initialize_runtime_state
    from xfuser.model_executor.models.transformers.transformer_minimax_h3 import xFuserMiniMaxH3Transformer3DWrapper

    initialize_groups(config)
    alone = make_minimax_h3()
    wrapped = xFuserMiniMaxH3Transformer3DWrapper.from_config(alone.config).to(dtype).eval()
    wrapped.load_state_dict(alone.state_dict())
    wrapped.fuse_qkv_projections()
    initialize_runtime_state(SimpleNamespace(transformer=wrapped), config)
    return wrapped


def _steps(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Video and sound after two steps."""
    for _ in range(2):
        video, sound = model(**inputs)
        inputs = {
            **inputs,
            "hidden_states": inputs["hidden_states"] + 0.5 * video,
            "audio_hidden_states": inputs["audio_hidden_states"] + 0.5 * sound,
        }
    return torch.cat([inputs["hidden_states"].flatten(), inputs["audio_hidden_states"].flatten()])


def _cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: value.to(dtype) if name.endswith("hidden_states") else value for name, value in inputs.items()}
