"""What was done to a transformer before it is spread over ranks: kept where it is right, refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, hooks

from tests.support.families import FAMILIES
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.changes import TOKEN_WISE, refuse_changes


def transformer(family: str = "flux") -> Any:
    return FAMILIES[family].make().transformer


def hooked(model: Any) -> None:
    model.transformer_blocks[0].register_forward_hook(lambda *_: None)


def hooked_before(model: Any) -> None:
    model.transformer_blocks[0].ff.register_forward_pre_hook(lambda *_: None)


def replaced(model: Any) -> None:
    model.transformer_blocks[0].ff.forward = lambda x: x


def dropping_out(model: Any) -> None:
    model.train()
    model.transformer_blocks[0].ff.net[1].p = 0.5


def _in(module: Any, name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not hasattr(module, name), reason=f"this diffusers has no {name}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (hooked, "hook (hooked.<locals>.<lambda>) was put on transformer_blocks.0 in the Flux"),
        (hooked_before, "put it on the whole transformer"),
        (replaced, "the forward of transformer_blocks.0.ff in the Flux was replaced"),
        (dropping_out, "call pipe.transformer.eval()"),
        (lambda model: model.to(torch.float64), "use torch.float32, torch.bfloat16 or torch.float16"),
        pytest.param(
            lambda model: model.enable_cache(hooks.SeaCacheConfig()), "'sea_cache_", marks=_in(hooks, "SeaCacheConfig")
        ),
        pytest.param(
            lambda model: model.enable_cache(hooks.TaylorSeerCacheConfig()),
            "use taylor_factors_dtype=torch.float32",
            marks=_in(hooks, "TaylorSeerCacheConfig"),
        ),
    ],
)
def test_what_was_not_compared_is_refused(change: Callable[[Any], object], said: str) -> None:
    model = transformer()
    refuse_changes(model, "Flux")
    change(model)
    with pytest.raises(UnsupportedError) as refusal:
        refuse_changes(model, "Flux")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_right_is_kept() -> None:
    def token_wise(*_: Any) -> None:
        return None

    setattr(token_wise, TOKEN_WISE, True)
    model = transformer()
    model.transformer_blocks[0].register_forward_hook(token_wise)
    model.register_forward_hook(lambda *_: None)
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    refuse_changes(model, "Flux")
