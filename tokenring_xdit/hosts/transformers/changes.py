"""What was done to a parallel language model since, and is refused where all ranks compute it together."""

from __future__ import annotations

from typing import Any

import torch

from tokenring_xdit.dtypes import DTYPES
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.changes import refuse_autocast, refuse_hooks
from tokenring_xdit.hosts.transformers.attention import NAME

__all__ = ["refuse_changed", "refuse_dtype", "refuse_parts"]

_OWN = "transformers."
"""Where transformers' own hooks are from: they record what a call asks for, or have gradients flow."""


def refuse_changed(model: Any, device: torch.device) -> None:
    """Refuse to compute a model that one process would compute otherwise, or not on the device it was spread on.

    Args:
        model: The causal language model.
        device: Where it was when it was made parallel.

    Raises:
        UnsupportedError: Autocast is on, or the model was changed in a way that was not compared.
    """
    kind = type(model).__name__
    refuse_autocast(kind, "call it outside of it, after model.to(torch.bfloat16), say")
    if model.device != device:
        raise UnsupportedError(
            f"the {kind} was moved to {model.device} after parallelize, which connected the ranks for {device}: call "
            "model.to(device) first, then parallelize"
        )
    refuse_dtype(model)
    implementation = model.config._attn_implementation
    if implementation != NAME:
        raise UnsupportedError(
            f"the attention of this {kind} was set to '{implementation}' after parallelize, which "
            f"would attend the keys of one rank only: call model.set_attn_implementation('{NAME}')"
        )
    refuse_parts(model)
    if model.training:
        _refuse_training(model)


def refuse_dtype(model: Any) -> None:
    """Refuse a dtype in which attention is not computed.

    Raises:
        UnsupportedError: The model has it.
    """
    if str(model.dtype).removeprefix("torch.") not in DTYPES:
        raise UnsupportedError(
            f"this model is in {model.dtype}, and attention is computed in {', '.join(DTYPES)}: load it in one of these"
        )


def refuse_parts(model: Any) -> None:
    """Refuse hooks on parts of a model, and attention or layers with another forward: they see a rank's tokens only.

    Hooks on the whole model see what they see in one process.

    Raises:
        UnsupportedError: There is one.
    """
    kind, decoder = type(model).__name__, model.get_decoder()
    for name, module in model.named_modules():
        if (module._forward_pre_hooks or module._forward_hooks) and module is not model:
            refuse_hooks(kind, name, module, "the whole model", without=_OWN)
    for number, layer in enumerate(decoder.layers):
        for part in (layer, getattr(layer, "self_attn", layer)):
            if "forward" in vars(part) and "_hf_hook" not in vars(part):
                raise UnsupportedError(
                    f"the forward of the {type(part).__name__} of layer {number} was replaced, where it sees this "
                    "rank's tokens only: leave it as it was, or call the model without parallelize"
                )


def _refuse_training(model: Any) -> None:
    """Refuse what a model in training mode does otherwise: gradients, checkpoints, dropout."""
    if torch.is_grad_enabled():
        raise UnsupportedError("a model in training mode was called, and gradients are not sharded: call model.eval()")
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            raise UnsupportedError(
                "a model in training mode with gradient checkpointing, which computes without a cache, was called: "
                "call model.eval()"
            )
        if isinstance(module, torch.nn.Dropout) and module.p:
            raise UnsupportedError(
                "a model in training mode with dropout, of which each rank would draw its own, was called: call "
                "model.eval()"
            )
