"""What was done to a transformer, and is refused where all ranks compute it together."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from tokenring_xdit.attention.checks import DTYPES
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.caches import refuse_cache

__all__ = ["TOKEN_WISE", "refuse_alone", "refuse_autocast", "refuse_changes", "refuse_hooks", "refuse_scattered"]

TOKEN_WISE = "tokenring_token_wise"
"""Attribute of a hook that says it looks at each token by itself, so that it may see a rank's tokens alone."""


def refuse_changes(model: Any, kind: str) -> None:
    """Refuse hooks, replaced functions, dropout, autocast and dtypes that were not compared with one process.

    Hooks on the transformer itself see whole latents, and are as good as in one process.

    Args:
        model: The transformer.
        kind: Its class in diffusers, for the message.

    Raises:
        UnsupportedError: There is one.
    """
    for name, module in model.named_modules():
        attributes = vars(module)
        hooks = attributes.get("_diffusers_hook")
        if hooks is not None:
            refuse_cache(hooks.hooks, model.dtype)
        if module is not model:
            refuse_hooks(kind, name, module, "the whole transformer")
            if "forward" in attributes and hooks is None and "_hf_hook" not in attributes:
                raise UnsupportedError(
                    f"the forward of {name} in the {kind} was replaced, where it would see this rank's tokens only: "
                    "replace that of the whole transformer, or do without parallelize"
                )
        if model.training and isinstance(module, torch.nn.Dropout) and module.p:
            raise UnsupportedError(
                f"the {kind} is in training mode, where every rank would drop out other values: call "
                "pipe.transformer.eval()"
            )
    refuse_autocast(kind, "call the pipeline outside of it, after pipe.to(torch.bfloat16), say")
    dtype = model.dtype
    if dtype.is_floating_point and dtype.itemsize > 1 and dtype not in DTYPES:
        raise UnsupportedError(
            f"the {kind} has {dtype}, which attention over ranks does not take: use "
            f"{', '.join(map(str, DTYPES[:-1]))} or {DTYPES[-1]}"
        )


def refuse_autocast(kind: str, instead: str) -> None:
    """Refuse calls inside of autocast, which was not compared with one process.

    Args:
        kind: The model's class, for the message.
        instead: What to do.

    Raises:
        UnsupportedError: It is on.
    """
    if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise UnsupportedError(
            f"the {kind} was called inside torch.autocast, under which queries and keys have different dtypes: "
            f"{instead}"
        )


def refuse_scattered(pipe: Any) -> None:
    """Refuse a pipeline of which ``device_map`` put the parts on several devices, or not into memory.

    Args:
        pipe: A pipeline of diffusers.

    Raises:
        UnsupportedError: It did.
    """
    maps = [getattr(part, "hf_device_map", None) or {} for part in pipe.components.values()]
    devices = {str(device) for each in maps for device in each.values()}
    if len(devices) > 1 or "disk" in devices:
        raise UnsupportedError(
            f"parts of this pipeline lie on {' and '.join(sorted(devices))} (device_map), and every rank has to have "
            "all of them on its own device: leave device_map out and call pipe.to(device)"
        )


def refuse_alone(module: Any) -> NoReturn:
    """Refuse a block that is called outside of the call of its transformer, where the sequence is cut.

    Raises:
        UnsupportedError: Always.
    """
    raise UnsupportedError(
        f"a {type(module).__name__} of a transformer that parallelize has spread over ranks was called by itself, as "
        "ControlNets around a transformer do: call the transformer, or do without parallelize"
    )


def refuse_hooks(kind: str, name: str, module: Any, whole: str, *, without: str | None = None) -> None:
    """Refuse forward hooks on a part of a model, unless they say that they look at each token by itself.

    Args:
        kind: The model's class, for the message.
        name: The part.
        module: The same.
        whole: What to put them on instead.
        without: Where hooks come from that are no matter, as a module's name begins.

    Raises:
        UnsupportedError: There is one.
    """
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        harmless = without is not None and str(getattr(hook, "__module__", "")).startswith(without)
        if not harmless and not getattr(hook, TOKEN_WISE, False):
            raise UnsupportedError(
                f"a forward hook ({getattr(hook, '__qualname__', type(hook).__name__)}) was put on {name} in the "
                f"{kind}, where it would see this rank's tokens only: put it on {whole}, or, where it "
                f"looks at each token by itself, set its attribute {TOKEN_WISE} to True"
            )
