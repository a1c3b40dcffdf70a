"""One call that spreads a causal language model over the ranks of ``torchrun``; it is then used as always."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tokenring_xdit.attention import exchange
from tokenring_xdit.errors import AgreementError, ConfigurationError, UnsupportedError
from tokenring_xdit.hosts.calls import agreed_host, join_world
from tokenring_xdit.hosts.transformers.attention import NAME, register
from tokenring_xdit.hosts.transformers.changes import refuse_dtype, refuse_parts
from tokenring_xdit.hosts.transformers.context import ContextParallel, refuse_prefill
from tokenring_xdit.hosts.transformers.exchanges import Exchanges
from tokenring_xdit.hosts.transformers.generate import replace_generate
from tokenring_xdit.hosts.transformers.model import replace_decoder, replace_head, replace_rotary
from tokenring_xdit.hosts.transformers.session import Session
from tokenring_xdit.hosts.transformers.strategies import strategy_named
from tokenring_xdit.hosts.transformers.supported import family_of
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.schedule import AUTO, Mask

__all__ = ["TransformersHost", "parallelize"]

_Model = TypeVar("_Model")

OUTPUTS = "outputs"
"""The one thing that travels in a step of an answer."""

CONTIGUOUS = "contiguous"
"""The one layout of tokens on ranks."""

_DYNAMIC = "torch.ao.nn.quantized.dynamic"
"""Where torch has layers that are quantised as they compute."""

_QUANTISING = frozenset(
    {
        "AutoBitLinear",
        "BitLinear",
        "CompressedTensorsFP8Linear",
        "FP8GroupedLinear",
        "FP8Linear",
        "FbgemmFp8Linear",
        "Linear8bitLt",
        "NVFP4Linear",
    }
)
"""Layers of transformers and bitsandbytes that quantise activations."""


def parallelize(
    model: _Model,
    *,
    tokenring_degree: int = 1,
    prefill: str = AUTO,
    decode: str = OUTPUTS,
    layout: str = CONTIGUOUS,
) -> _Model:
    """Spread a causal language model over all ranks; every rank calls it with the same model.

    The model is changed in place. Its weights are whole on every rank; prompts are sharded, and so are the keys and
    values of all tokens, which stay where they were computed. ``generate`` and calls of the model are calls of all
    ranks, with the same arguments; in ``generate`` the first rank decides.

    Args:
        model: A causal language model of transformers, loaded and on this rank's device.
        tokenring_degree: Ranks that the sequence is sharded over.
        prefill: What ranks send while they read a prompt: ``keys`` go to queries, or ``queries`` to keys. Or
            a schedule (see ``tokenring-xdit schedule list``), or ``balanced``, the one for causal masks: for a
            whole prompt without padding, in layers without window and cap; elsewhere the smaller of both is sent.
            ``auto`` takes the fastest for the prompt or turn, as predicted, if the topology of the ranks is known
            (see ``tokenring-xdit probe``), and is ``balanced`` otherwise.
        decode: What ranks send in a decoding step: ``outputs``, partial ones with their log-sum-exps, in one
            collective a layer. The only choice: all ranks have the queries already, and keys would have to be sent for
            every token.
        layout: Which tokens a rank has: ``contiguous``, one piece of the sequence. The only choice; ``balanced``
            gives all ranks equal work under a causal mask.

    Returns:
        ``model``, with ``model.tokenring``, a :class:`ContextParallel`.

    Raises:
        AgreementError: The ranks loaded different models, were given different arguments, or one of them refuses.
        ConfigurationError: There are no ranks, or another number of them.
        ScheduleError: ``prefill`` is not known, or not for this number of ranks.
        UnsupportedError: The model was not compared with the single process.
    """
    join_world()
    asked = partial(TransformersHost, tokenring_degree, prefill, decode, layout)
    agreed_host(model, asked, "compute one language model").spread(model)
    return model


class TransformersHost:
    """Transformers as it was asked for, as :class:`~tokenring_xdit.hosts.base.Host` says.

    Args:
        degree: Ranks that the sequence is sharded over.
        prefill: What travels where tokens are sharded.
        decode: What travels in a step of an answer.
        layout: Which tokens are a rank's.

    Raises:
        ScheduleError: ``prefill`` is not known, or not for this number of ranks.
        UnsupportedError: There is another way for one of the others.
    """

    def __init__(self, degree: int, prefill: str, decode: str, layout: str) -> None:
        if decode != OUTPUTS:
            raise UnsupportedError(
                f"decode={decode!r} was asked for, and in a step of an answer partial outputs travel, {OUTPUTS!r}, in "
                "one collective a layer: leave it out; all ranks have the queries of a step, and keys would travel "
                "each time"
            )
        if layout != CONTIGUOUS:
            raise UnsupportedError(
                f"layout={layout!r} was asked for, and each rank has one piece of the sequence, {CONTIGUOUS!r}: leave "
                "it out; prefill='balanced' gives all ranks equal work under a causal mask, as zigzag does"
            )
        refuse_prefill(prefill, dist.get_world_size())
        self._prefill, self._strategy = prefill, strategy_named(prefill)
        self._dims = ParallelDims(tokenring=degree, schedule=self._strategy[1], mask=Mask.CAUSAL)

    @property
    def settings(self) -> Mapping[str, str]:
        """Degrees, and how prompts are sharded."""
        return {"host": "transformers", "degrees": str(self._dims), "prefill": self._prefill}

    def refuse(self, model: Any) -> None:
        """Refuse what was not compared, degrees that do not fit, and what was done to the model before."""
        _refuse(model, self._dims)

    def spread(self, model: Any) -> None:
        """Replace what computes over whole sequences, on the model itself.

        Raises:
            AgreementError: The ranks loaded different models.
        """
        model = _without_adapters(model)
        session = Session(model, family_of(model), Exchanges(None, model.device), *self._strategy, self._prefill)
        fingerprints = exchange(None, session.fingerprint, "the models")
        if len(set(fingerprints)) > 1:
            raise AgreementError(
                f"the ranks have loaded different weights, {', '.join(fingerprints)}: load the same model everywhere, "
                "in the same dtype"
            )
        register()
        model.set_attn_implementation(NAME)
        replace_rotary(model)
        replace_decoder(model, session)
        replace_head(model, session)
        replace_generate(model, session)
        model.tokenring = ContextParallel(model, session)
        model.__reduce_ex__ = _refuse_copies


def _refuse_foreign(model: Any) -> None:
    """Refuse code that is not transformers' own: it may attend in ways that its configuration does not say."""
    decoder = model.get_decoder()
    parts = [model, decoder, *decoder.layers, *(getattr(layer, "self_attn", None) for layer in decoder.layers)]
    for kind in map(type, parts):
        if not kind.__module__.startswith("transformers.models."):
            raise UnsupportedError(
                f"this model has a {kind.__name__} of {kind.__module__}, and only classes of transformers itself were "
                "compared with one process: load it without trust_remote_code, and without FSDP or classes of your own"
            )


def _refuse_quantised_activations(model: Any) -> None:
    """Refuse layers that quantise what they are given: the last bits of attention move whole steps there."""
    found = next(filter(_quantises_activations, model.modules()), None)
    if found is not None:
        raise UnsupportedError(
            f"this model has a {type(found).__name__} of {type(found).__module__}, which quantises activations, by the "
            "largest of a token or of all tokens of a call, and what ranks compute differs from one process by a step "
            "there: quantise weights only (load_in_4bit of bitsandbytes, Int8WeightOnlyConfig of torchao, GGUF)"
        )


def _quantises_activations(module: Any) -> bool:
    activations = getattr(getattr(module, "weight", None), "act_quant_kwargs", None)  # torchao
    scheme = getattr(getattr(module, "quantization_scheme", None), "input_activations", None)  # compressed-tensors
    known = type(module).__name__ in _QUANTISING or type(module).__module__.startswith(_DYNAMIC)
    return known or activations is not None or scheme is not None


def _refuse_shares(model: Any) -> None:
    """Refuse weights of which each rank has a share."""
    shared = any(type(parameter).__name__ == "DTensor" for parameter in model.parameters())
    if shared or getattr(model, "_device_mesh", None) is not None or (getattr(model, "_tp_size", None) or 1) > 1:
        raise UnsupportedError(
            "this model was loaded in parallel by transformers (tp_plan, distributed_config), and every rank needs all "
            "weights: load it without these"
        )


def _refuse_copies(_: Any) -> Any:
    raise UnsupportedError(
        "a parallel model was copied or pickled, and it belongs to its ranks: write it with model.save_pretrained, "
        "and load it again"
    )


def _without_adapters(model: Any) -> Any:
    """The model of transformers that peft has put into one of its own, which calls it; else the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _refuse(model: Any, dims: ParallelDims) -> None:
    if not isinstance(getattr(model, "_orig_mod", model), torch.nn.Module):
        raise ConfigurationError(
            f"tokenring_xdit.parallelize was given a {type(model).__name__}: pass the language model itself, "
            "pipe.model of a pipeline of transformers, say"
        )
    if hasattr(model, "tokenring"):
        raise ConfigurationError("this model was made parallel before: load it anew for other degrees")
    dims.refuse_started(dist.get_world_size())
    if getattr(model, "_orig_mod", None) is not None or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError(
            "this model was compiled, and what ranks send each other is not: pass the model without torch.compile"
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedError(
            "this model has a learned prompt (peft), which puts embeddings before those of the prompt, and input_ids "
            "are what is sharded: use an adapter of weights, such as LoRA"
        )
    model = _without_adapters(model)
    family_of(model)
    _refuse_foreign(model)
    _refuse_quantised_activations(model)
    _refuse_shares(model)
    refuse_dtype(model)
    refuse_parts(model)
    if model.device.type == "meta" or "disk" in (getattr(model, "hf_device_map", None) or {}).values():
        raise UnsupportedError(
            "weights of this model are not in memory (device_map, or the meta device), and every rank needs all of "
            "them: load it without device_map and call model.to(device)"
        )
    if len({*(getattr(model, "hf_device_map", None) or {}).values()}) > 1:
        raise UnsupportedError(
            "the layers of this model lie on several devices (device_map), and every rank has to have them on its own: "
            "load it without device_map and call model.to(device)"
        )
